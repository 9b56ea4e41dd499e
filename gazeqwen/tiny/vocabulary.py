"""Makes gazeqwen/tiny/tokenizer.json: `python -m gazeqwen.tiny.vocabulary`. Run again only with new weights.

A byte-level BPE (any text round-trips) whose merges come from the words a small kitchen world needs, so that most of
them are one token with and without a leading space.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gazeqwen.tiny.model import _TOKENIZER_FILE, SPECIAL_TOKENS

WORDS = """
A B C D E F yes no Yes No Question Options Answer briefly The best option is or system user assistant You are a
helpful what which when where who how did does do was were will would now before after first last next never ever at
the of in on to for from and an object objects thing looking look looked looks gaze gazing fixation fixations wearer I
my me hand holding hold picked picks pick put puts placed place touched touches touch moved moves move opened opens
open closed left right top bottom middle front behind near far between beside above below inside outside red green
blue yellow orange purple pink brown black white grey cyan dark light small large big round square tall flat cup mug
bowl plate knife spoon fork pan pot jar box bottle can lid board tray towel sponge kettle toaster oven sink tap apple
lemon tomato onion carrot bread cheese egg spices salt sugar flour oil water milk book phone key ball block cube
kitchen table counter shelf drawer door window room scene video frame background person people camera longest shortest
most least same different again twice once already yet still soon later while during until since appeared appear
disappears gone visible absent present missing new old other another any all none some every each attention alert tell
warn notify times time second seconds minute moment recently currently previously zero one two three four five six
seven eight nine ten sequence order transition followed following then switch switched cut cutting wash washing pour
pouring stir stirring opening take taking clean cleaning dry cook cooking activity future action likely going recall
remember identity attribute color shape material used use using reach reaching grasp direction state motion flash
flashed cover covered wet dirty up down just recent matches pattern appears this that What Which When Where In Among
Based Monitor Watch Tell Not not only it if so should be triggered seen see your letter correct number dot circle
point area field view represents by with without have monitor watch fixated Is NOT 's { } < > }>{ }, }? >.
""".split()  # noqa: SIM905 - lines of prose, not a list of hundreds


def build() -> Tokenizer:
    """The tokenizer, deterministic for a given `tokenizers` release."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1536,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = sorted(set(WORDS))
    tokenizer.train_from_iterator([text for word in words for text in (word, " " + word) for _ in range(4)], trainer)
    return tokenizer


if __name__ == "__main__":
    build().save(str(_TOKENIZER_FILE))
