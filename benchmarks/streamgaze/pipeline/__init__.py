"""From own recordings to StreamGaze-style questions: `gazeqwen data build` (docs/data_pipeline.md).

recordings -> gaze.py (fixations) -> scene_consistency.py -> objects.py (annotations.py, or captioner.py) -> episodes.py
-> scanpath.py (an EventLog) -> gazeqwen.question_rules -> filters.py -> build.py (files). What StreamGaze's pipeline
(daeunni/StreamGaze at 07b8a44, `pipeline/`) does wrong is reproduced under the rules `streamgaze` only.
"""
