"""A pad token that no sequence ends with.

transformers pools a decoder at the last id that is not the pad id and ignores the attention mask. Where pad is also the
end marker (GPT-2's convention, and trlX's), it reads one token early. So the exported tokenizer gets another one.
"""

from __future__ import annotations

from collections.abc import Set

from transformers import PretrainedConfig, PreTrainedTokenizerBase

PAD = "<|pad|>"


def give_pad(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, ends: Set[int]) -> None:
    """Changes tokenizer and config so that the pad token is none of `ends`, the ids of the end marker.

    Its own pad token if it will do, else its unknown token, else a new `<|pad|>`, for which `vocab_size` grows if the
    embeddings have no row to spare.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends:
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in ends:
            tokenizer.pad_token = tokenizer.unk_token
        else:
            tokenizer.add_special_tokens({"pad_token": PAD})
    tokenizer.padding_side = "right"  # learned absolute positions are wrong behind left padding
    text = config.get_text_config()
    text.pad_token_id = config.pad_token_id = tokenizer.pad_token_id
    text.vocab_size = max(text.vocab_size, len(tokenizer))
