"""The embedded default: a small real Qwen2.5-VL with its own tokenizer, and a small V-JEPA 2.1, built on this machine.

Same architecture, same key names and same code path as the 7B; only the numbers are small. The weights are seeded
random numbers ("untrained") until the training work ships trained ones, and every answer says so.
"""

from gazeqwen.tiny.model import TINY_CONFIG, build_tiny_vlm, tiny_tokenizer

__all__ = ["TINY_CONFIG", "build_tiny_vlm", "tiny_tokenizer"]
