"""Small tokenizers of each family, trained on a few words, and what bytes each of their tokens stands for."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = ["the cat sat on the mat", "step one is right", "step two is wrong\n", "a naïve café, 12 + 30 = 42"] * 20
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# After Qwen3's: an answer gets an empty thinking block that the generation prompt does not have.
THINKING = CHATML.replace("m.content", "('<think>\n\n</think>\n\n' if m.role == 'assistant' else '') + m.content")
# After Llama 3's: BOS in the template, blanks around a message cut off, no two turns of one side.
LLAMA3 = (
    "{{ '<s>' }}{% for m in messages %}"
    "{% if not loop.first and m.role == messages[loop.index0 - 1].role %}{{ raise_exception('alternate') }}{% endif %}"
    "{{ '[' + m.role + ']' + m.content | trim + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


def byte_level(*, trim_offsets: bool = False, add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE as Qwen's: ends a turn with <|im_end|>, writes nothing by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def _sentencepiece(tokenizer: Tokenizer, pieces: int) -> PreTrainedTokenizerFast:
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    assert tokenizer.get_vocab_size() > pieces
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def unigram() -> PreTrainedTokenizerFast:
    """Returns a SentencePiece-like Unigram model: a dummy space in front (Metaspace), rare characters as bytes."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=80, show_progress=False))
    pieces = trained.get_vocab()
    vocabulary = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -20.0) for byte in range(256))]
    vocabulary += [(piece, -2.0 - 0.01 * rank) for rank, piece in enumerate(sorted(pieces, key=len, reverse=True))]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    return _sentencepiece(tokenizer, 257)


def llama() -> PreTrainedTokenizerFast:
    """Returns a BPE as Llama 2's: the dummy space is a normalizer's (Prepend), rare characters as bytes."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=80, show_progress=False))
    state = trained.get_vocab()
    pieces = sorted(state, key=lambda piece: state[piece])
    vocabulary = {token: i for i, token in enumerate(["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *pieces])}
    merges = [(p[:i], p[i:]) for p in pieces for i in range(1, len(p)) if p[:i] in vocabulary and p[i:] in vocabulary]
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _sentencepiece(tokenizer, 257)


def wordpiece() -> PreTrainedTokenizerFast:
    """Returns a lower-casing WordPiece as BERT's: [CLS] text [SEP], no EOS."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "step", "one", "two", "is", "right", "wrong", "the", ".", "##s"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken(word) for word in words[:4]])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


def byte_level_bytes(token: str) -> bytes:
    """Returns a byte-level token's bytes: printable Latin-1 is itself, the rest is counted up from U+0100 (GPT-2)."""
    itself = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in itself]
    return bytes(ord(c) if ord(c) in itself else others[ord(c) - 256] for c in token)


def sentencepiece_bytes(token: str) -> bytes:
    """Returns a SentencePiece token's bytes: <0xNN> is that byte, ▁ is a space."""
    if len(token) == 6 and token.startswith("<0x"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()
