"""What is different where the policy is an encoder-decoder (T5): the encoder reads the prompt.

A TokenBatch holds prompt and completion in one row, as a decoder-only model reads them. Here it is
cut in two: the prompt for the encoder, the completion, shifted right behind the start token, for
the decoder. Not here: output layer, value head and log-probs, which are the same (actor_critic.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from training.policy.batches import TokenBatch


@dataclass(frozen=True)
class EncoderDecoderInputs:
    """b prompts `encoder_ids`, `encoder_mask` [b, p], right-padded, and `decoder_ids` [b, t].

    Position t of the decoder reads token t - 1 and predicts token t of the completion. What pads
    `decoder_ids` comes last, and the decoder is causal: no token sees it.
    """

    encoder_ids: Tensor
    encoder_mask: Tensor
    decoder_ids: Tensor


def split_batch(batch: TokenBatch, start_token: int) -> EncoderDecoderInputs:
    """Prompt and completion of every row apart; the completion begins with `start_token`.

    Rows of one length together may have prompts and completions of any, and each is padded up to
    its own longest: at most twice the tokens that the batch was cut for.
    """
    is_token = batch.mask.bool()
    prompts = batch.attention_mask.sum(1) - is_token.sum(1)
    width = int(prompts.max())
    places = torch.arange(width, device=prompts.device)
    completions = torch.zeros_like(is_token, dtype=torch.long)
    completions = completions.masked_scatter(is_token, batch.targets)
    start = completions.new_full((len(completions), 1), start_token)
    return EncoderDecoderInputs(
        encoder_ids=batch.input_ids[:, :width],
        encoder_mask=(places < prompts[:, None]).long(),
        decoder_ids=torch.cat([start, completions[:, :-1]], 1),
    )


def final_states(policy: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """The decoder's final hidden states [n, h] that predict the batch's n tokens, row by row.

    Not yet scaled, see logits_scale. Raises ValueError where the model names no start token.
    """
    inputs = split_batch(batch, decoder_start_token(policy))
    encoded = policy.get_encoder()(
        input_ids=inputs.encoder_ids, attention_mask=inputs.encoder_mask
    ).last_hidden_state
    states: Tensor = policy.get_decoder()(
        input_ids=inputs.decoder_ids,
        encoder_hidden_states=encoded,
        encoder_attention_mask=inputs.encoder_mask,
        use_cache=False,
    ).last_hidden_state
    return states[batch.mask.bool()]


def own_logits(policy: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """The logits [n, vocabulary] as the model itself gives them, for comparison."""
    inputs = split_batch(batch, decoder_start_token(policy))
    logits: Tensor = policy(
        input_ids=inputs.encoder_ids,
        attention_mask=inputs.encoder_mask,
        decoder_input_ids=inputs.decoder_ids,
        use_cache=False,
    ).logits
    return logits[batch.mask.bool()]


def logits_scale(policy: PreTrainedModel) -> float:
    """What a model multiplies its final states by before the output layer.

    T5 as published ties output layer and embeddings and scales by hidden_size ** -0.5 (Raffel et
    al. 2020, in the released code only); T5 1.1 and Flan-T5 do neither. A model that scales by
    another rule is found by ActorCritic.load, which compares with the model's own logits.
    """
    config = policy.config
    return config.hidden_size**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0


def say_untied(policy: PreTrainedModel) -> None:
    """Lets the configuration of a Flan-T5 say again what the Hub's does: output layer of its own.

    transformers 5 keeps that apart, forces tie_word_embeddings to true and would save it so, where
    earlier releases, and whatever ties weights anew, would read another model out of the folder.
    """
    if getattr(policy.config, "scale_decoder_outputs", None) is False:
        policy.config.tie_word_embeddings = False


def decoder_start_token(policy: PreTrainedModel) -> int:
    """The id that `generate` begins a completion with. Raises ValueError where there is none."""
    for config in (policy.generation_config, policy.config):
        start = getattr(config, "decoder_start_token_id", None)
        if isinstance(start, int):
            return start
    raise ValueError(
        f"{policy.name_or_path or type(policy).__name__}: no decoder_start_token_id in config.json "
        "or generation_config.json; T5's is its pad_token_id, write it there"
    )
