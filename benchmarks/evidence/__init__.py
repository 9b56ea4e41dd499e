"""`gazeqwen evidence`: every arm of DESIGN 8 on the embedded model and its small world."""
