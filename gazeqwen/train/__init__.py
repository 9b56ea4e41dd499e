"""Training: stage one (the resampler), stage two (LoRA), or both at once. Takes videos as steps and questions
(`examples.VideoSource`), and knows no file format; `benchmarks.streamgaze.training` reads StreamGaze's."""
