"""What things cost here, as ratios against the plain way to do the same: medians of interleaved repeats, with parts."""
