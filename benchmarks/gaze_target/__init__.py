"""GazeFollow and VideoAttentionTarget: where people in pictures look. `python -m benchmarks.gaze_target --help`."""
