"""A bidirectional LSTM as a student (Distilled BiLSTM, Tang et al. 2019), which transformers loads like its own models.

One text is read by one or more bidirectional LSTM layers; the last states of both directions, side by side, go through
a linear layer with ReLU and then to the outputs. Of a pair both texts are read by the same LSTM, one without the other
(siamese), and the classifier sees [h1, h2, h1 * h2, |h1 - h2|]. The paper starts from word2vec; here the embeddings are
drawn, or the teacher's (`student.embeddings`), and stand for the tokenizer's tokens.

Importing this module (`codir.models.loading` does) makes `AutoConfig`, `AutoModel` and
`AutoModelForSequenceClassification` know the family, without code that comes from a model folder.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers.initialization as init  # leaves alone what was read from a file
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput


class BiLstmConfig(PretrainedConfig):
    """Sizes of the model."""

    model_type = "codir-bilstm"

    def __init__(
        self,
        vocab_size: int = 30522,
        embedding_size: int = 300,
        hidden_size: int = 300,  # width of a layer's output, half of it for each direction
        num_hidden_layers: int = 1,  # as in the paper
        classifier_size: int = 200,  # width of the linear layer before the outputs
        sentence_pairs: bool = False,  # pairs, which the siamese form reads; otherwise they are read as one text
        hidden_dropout_prob: float = 0.1,  # of the embeddings, between layers, and before each linear layer
        initializer_range: float = 0.1,  # standard deviation of new embeddings
        pad_token_id: int | None = 0,  # its embedding is zero and stays it
        sep_token_id: int | None = None,  # of pairs, ends the first text where there are no token types (RoBERTa)
        **kwargs: Any,
    ):
        """Takes the sizes; raises `ValueError` for a width that cannot be halved."""
        if hidden_size % 2:
            raise ValueError(
                f"hidden_size is {hidden_size}: it is the width of both directions together and must be even."
            )
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.classifier_size = classifier_size
        self.sentence_pairs = sentence_pairs
        self.hidden_dropout_prob = hidden_dropout_prob
        self.initializer_range = initializer_range
        self.pad_token_id = pad_token_id
        self.sep_token_id = sep_token_id
        super().__init__(**kwargs)


class _BiLstmPreTrained(PreTrainedModel):
    config_class = BiLstmConfig
    base_model_prefix = "bilstm"
    _input_embed_layer = "embeddings"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Not the 0.02 of transformers, which is made for layers between norms: here the signal would die out.
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)


class BiLstmModel(_BiLstmPreTrained):
    """Embeddings and LSTM layers."""

    def __init__(self, config: BiLstmConfig):
        """Builds the layers."""
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        widths = [config.embedding_size] + [config.hidden_size] * (config.num_hidden_layers - 1)
        # One module for each layer: a stacked nn.LSTM gives out the last layer's states only.
        self.layers = nn.ModuleList(
            nn.LSTM(width, config.hidden_size // 2, batch_first=True, bidirectional=True) for width in widths
        )
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Reads texts, or both texts of pairs one without the other.

        Args:
            input_ids: [B, L].
            attention_mask: [B, L] 1 at real tokens, on whichever side the padding is.
            token_type_ids: [B, L] 1 in the second text of a pair; without them the separator is looked for.
            inputs_embeds: [B, L, embedding_size] instead of `input_ids`; pairs then need token types.
            output_hidden_states: also give the embeddings and every layer's output.
            return_dict: False for a tuple.
            **kwargs: accepted and not used (`output_attentions`, ...): there is no attention.

        Returns:
            `last_hidden_state` [B, L, hidden_size], zero at padding; `pooler_output` [B, texts * hidden_size], the last
            states of both directions of each text; `hidden_states`: [B, L, embedding_size], then [B, L, hidden_size]
            of each layer.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        embedded = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        real = embedded.new_ones(embedded.shape[:2]).bool() if attention_mask is None else attention_mask != 0
        if self.config.sentence_pairs:
            second = self._second_text(input_ids, real, token_type_ids)
            texts = [real & ~second, real & second]
        else:
            texts = [real]
        states: list[Tensor] = [embedded]
        final = embedded
        for layer in self.layers:
            outputs, finals = [], []
            dropped = self.dropout(states[-1])
            for text in texts:
                output, last = _read(layer, dropped, text)
                outputs.append(output)
                finals.append(last)
            states.append(torch.stack(outputs).sum(dim=0))  # each position belongs to one text at most
            final = torch.cat(finals, dim=1)
        hidden = tuple(states) if output_hidden_states else None
        if return_dict is False:
            return tuple(part for part in (states[-1], final, hidden) if part is not None)
        return BaseModelOutputWithPooling(last_hidden_state=states[-1], pooler_output=final, hidden_states=hidden)

    def _second_text(self, input_ids: Tensor | None, real: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Says [B, L] which tokens belong to a pair's second text: by token type, else after the first separator."""
        typed = torch.zeros_like(real) if token_type_ids is None else (token_type_ids != 0) & real
        separator = self.config.sep_token_id
        if separator is None or input_ids is None:
            return typed
        ends = (input_ids == separator) & real
        after = (ends.cumsum(dim=1) - ends.long() > 0) & real
        return torch.where(typed.any(dim=1, keepdim=True), typed, after)


def _read(layer: nn.Module, states: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Runs one bidirectional layer over the chosen tokens of each row, as if nothing else stood there.

    Args:
        layer: a one-layer bidirectional LSTM.
        states: [B, L, w].
        chosen: [B, L] bool, any positions.

    Returns:
        outputs: [B, L, h], zero elsewhere.
        last: [B, h], the last states of both directions; zero for a row with nothing chosen.
    """
    lengths = chosen.sum(dim=1)
    # The chosen tokens come first, in their order: an LSTM must not see the padding before or between them.
    order = torch.argsort(~chosen, dim=1, stable=True)[:, : max(int(lengths.max()), 1)]
    rows = torch.arange(len(states), device=states.device)[:, None]
    packed = pack_padded_sequence(
        states[rows, order], lengths.clamp_min(1).cpu(), batch_first=True, enforce_sorted=False
    )
    packed_outputs, (last, _) = layer(packed)
    outputs, _ = pad_packed_sequence(packed_outputs, batch_first=True)
    inside = torch.arange(order.shape[1], device=states.device) < lengths[:, None]
    outputs = outputs * inside[..., None]
    placed = outputs.new_zeros(*states.shape[:2], outputs.shape[-1])
    # Where a row has fewer tokens its surplus positions are not chosen ones, so that zeros are written to zeros.
    placed = placed.scatter(1, order[..., None].expand_as(outputs), outputs)
    both = torch.cat([last[0], last[1]], dim=1) * (lengths > 0)[:, None]
    return placed, both


class BiLstmForSequenceClassification(_BiLstmPreTrained):
    """The classifier on top: a linear layer with ReLU, and the outputs."""

    def __init__(self, config: BiLstmConfig):
        """Builds the layers."""
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bilstm = BiLstmModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        parts = 4 if config.sentence_pairs else 1
        self.hidden = nn.Linear(parts * config.hidden_size, config.classifier_size)
        self.classifier = nn.Linear(config.classifier_size, int(config.num_labels or 1))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Classifies texts or pairs, `logits` [B, C]; arguments as `BiLstmModel.forward`.

        `labels` [B] class ids, or scores if there is one output, add the loss.
        """
        read = self.bilstm(
            input_ids, attention_mask, token_type_ids, inputs_embeds, output_hidden_states, return_dict=True
        )
        final = read.pooler_output
        if self.config.sentence_pairs:
            first, second = final.chunk(2, dim=1)
            final = torch.cat([first, second, first * second, (first - second).abs()], dim=1)
        logits = self.classifier(self.dropout(torch.relu(self.hidden(self.dropout(final)))))
        loss = None
        if labels is not None and (self.config.problem_type == "regression" or self.num_labels == 1):
            loss = nn.functional.mse_loss(logits.float().view(-1), labels.float().view(-1))
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits.float(), labels)
        if return_dict is False:
            return tuple(part for part in (loss, logits, read.hidden_states) if part is not None)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=read.hidden_states)


AutoConfig.register(BiLstmConfig.model_type, BiLstmConfig, exist_ok=True)
AutoModel.register(BiLstmConfig, BiLstmModel, exist_ok=True)
AutoModelForSequenceClassification.register(BiLstmConfig, BiLstmForSequenceClassification, exist_ok=True)
