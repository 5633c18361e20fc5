"""The tokenizer that ships with rmlab: bytes, and the words of the generated world as one token each.

Nothing is downloaded. Any text can be written in bytes, and the tokenizer is an ordinary fast one: saved with a model,
`AutoTokenizer` loads it and `tokenizer(prompt + completion)` gives what rmlab trained on, with one `<eos>` at the end
whether or not the text had one.

Left out: `<bos>` (nothing reads it) and merges learnt from real text (a tiny random model does not profit).
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"
# What the generated world writes, longest habits first: an earlier word wins where two could begin. The blank line is
# the very first: it ends the prompt, and must not lose its second half to the "\n+1" that a line begins with.
WORDS = (
    "\n\n",
    *(f" start at {d}" for d in range(10)),
    *(f"\nstill {d}" for d in range(10)),
    *(f" = {d}" for d in range(10)),
    *(f"\n+{d}" for d in range(1, 4)),
    *(f"+{d}" for d in range(1, 4)),
    "Exercise ",
    ", add",
    *(f" {d}" for d in range(1, 4)),
)


def _merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Returns the merges that build each word from its left end, in byte-level spelling."""
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        letters = spell(word)[0][0]
        merges |= {(letters[:i], letters[i]): None for i in range(1, len(letters))}
    return list(merges)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of `<pad>`, `<eos>`, the 256 bytes and `WORDS`, which ends every text with one `<eos>`."""
    merges = _merges(WORDS)
    tokens = [PAD, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    # An <eos> that the text already ends with is taken off, since the post-processor writes one. The look-behind keeps
    # the rule from erasing the token's own text, which is normalised too when the tokenizer is built.
    tokenizer.normalizer = normalizers.Replace(Regex(r"(?<=[\s\S])<eos>\z"), "")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(PAD, normalized=False), AddedToken(EOS, normalized=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A $B {EOS}", special_tokens=[(EOS, vocabulary[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
