"""Functions that the task files name; they are the plug-in's."""

from benchmarks.lmms_eval_plugin import doc_to_messages, doc_to_text, doc_to_visual, mean_accuracy, process_results

__all__ = ["doc_to_messages", "doc_to_text", "doc_to_visual", "mean_accuracy", "process_results"]
