"""The tokenizer and the backbone that ship with rmlab: bytes, and a decoder small enough for two CPU cores.

Neither is downloaded. A byte is a token, so any text can be written, and the tokenizer is an ordinary fast one: saved
with a model, `AutoTokenizer` loads it and `tokenizer(prompt + completion)` gives what rmlab trained on, with one
`<eos>` at the end whether or not the text had one.

Left out: `<bos>` (nothing reads it) and merges (the generated world is learned well without).
"""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast

PAD, EOS = "<pad>", "<eos>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer of 258 ids: `<pad>`, `<eos>` and the 256 bytes. It ends every text with exactly one `<eos>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([PAD, EOS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
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
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, clean_up_tokenization_spaces=False, padding_side="right"
    )


def tiny_config() -> PretrainedConfig:
    """Returns the configuration of the built-in causal backbone, a Llama of about 0.2 M parameters, to be built randomly."""
    return LlamaConfig(
        vocab_size=258,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
