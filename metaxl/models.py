"""The tagger, XLM-R with a linear classifier on every subword, and the representation
transformation network, whose parameters are the hyperparameters.

Conneau et al. Unsupervised Cross-lingual Representation Learning at Scale. ACL 2020,
arXiv:1911.02116. Xia, Zheng, Mukherjee, Shokouhi, Neubig, Awadallah. MetaXL: Meta Representation
Transformation for Low-resource Cross-lingual Learning. NAACL 2021, arXiv:2104.07908.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaxl import hub
from metaxl.transformers_import import AutoConfig, XLMRobertaConfig, XLMRobertaModel


class Encoder(nn.Module):
    """XLM-R's embeddings and layers, in parts: up to a layer, or on from it."""

    def __init__(self, model: XLMRobertaModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        hidden: Tensor | None = None,
        depth: int = 0,
        stop: int | None = None,
    ) -> Tensor:
        """Hidden states (N, L, H) of subwords (N, L); mask (N, L), 0 or False at padding.

        hidden: the output of layer ``depth`` (0: of the embeddings), to continue from instead of
        starting with the subwords. stop: the layer whose output is returned; None: the last.
        """
        if hidden is None:
            hidden, depth = self.model.embeddings(input_ids=input_ids), 0
        # Added to the attention scores: nothing attends to padding.
        blocked = torch.finfo(hidden.dtype).min * (attention_mask == 0).to(hidden.dtype)
        blocked = blocked[:, None, None, :]
        for layer in self.model.encoder.layer[depth:stop]:
            hidden = layer(hidden, blocked)
        return hidden


class Tagger(nn.Module):
    """Encoder, dropout and classifier ("head"), which starts as XLM-R's own linear layers do."""

    def __init__(self, model: XLMRobertaModel, num_labels: int) -> None:
        super().__init__()
        self.encoder = Encoder(model)
        self.dropout = nn.Dropout(model.config.hidden_dropout_prob)
        self.head = nn.Linear(model.config.hidden_size, num_labels)
        nn.init.normal_(self.head.weight, std=model.config.initializer_range)
        nn.init.zeros_(self.head.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Scores (N, L, num_labels) of the encoder's states (N, L, H)."""
        return self.head(self.dropout(states))


def is_head(name: str) -> bool:
    """Whether a parameter of the tagger is the classifier's: what EvoGrad perturbs."""
    return name.startswith("head.")


class TransformationNetwork(nn.Module):
    """The change of one layer's hidden state h, gated: with [u, s] = W2 relu(W1 h + b1) + b2,

        f(h) = sigmoid(s) u

    where s is one unit and u has the size of h. Xavier-normal weights, zero biases; 591,361
    parameters at 768-384-769.
    """

    def __init__(self, hidden_size: int, bottleneck: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, bottleneck)
        self.fc2 = nn.Linear(bottleneck, hidden_size + 1)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """f(h), (..., H), of hidden states (..., H)."""
        output = self.fc2(F.relu(self.fc1(hidden)))
        return torch.sigmoid(output[..., -1:]) * output[..., :-1]


class Transformation(nn.Module):
    """One transformation network f_l for each of a set of layers l:

        h_l -> h_l + f_l(stop_gradient(h_l))

    A source sentence passes the encoder once for each layer of the set, transformed there only;
    the losses of these passes are averaged with the weights softmax(mixing). One mixing parameter
    per layer, 0 at the start; for a single layer its weight is 1 whatever the parameter is.
    """

    def __init__(self, hidden_size: int, layers: Sequence[int], bottleneck: int) -> None:
        super().__init__()
        self.layers = tuple(sorted(layers))
        self.networks = nn.ModuleDict(
            {str(layer): TransformationNetwork(hidden_size, bottleneck) for layer in self.layers}
        )
        self.mixing = nn.Parameter(torch.zeros(len(self.layers)))

    def forward(self, layer: int, hidden: Tensor) -> Tensor:
        """The output (N, L, H) of ``layer``, one of the set, transformed."""
        return hidden + self.networks[str(layer)](hidden.detach())

    @property
    def heaviest(self) -> int:
        """The layer of greatest weight (the lowest of equals): the one to evaluate with."""
        return self.layers[int(self.mixing.argmax())]


def load_encoder(source: str, attention: str) -> XLMRobertaModel:
    """XLM-R from a folder, or from the Hugging Face hub by name; weights as safetensors only.

    attention: "eager" (twice differentiable) or "sdpa" (fused). Raises UserError.
    """
    with hub.loading(f"--encoder {source}"):
        if (kind := AutoConfig.from_pretrained(source).model_type) != "xlm-roberta":
            raise ValueError(f"it is a {kind} model instead of XLM-R")
        loaded: Any = XLMRobertaModel.from_pretrained(
            source,
            add_pooling_layer=False,
            use_safetensors=True,
            attn_implementation=attention,
            output_loading_info=True,
        )
        model, report = loaded
        if missing := report["missing_keys"]:
            raise ValueError(f"it lacks weights such as {min(missing)}")
    return model


def random_encoder(attention: str, **architecture: Any) -> XLMRobertaModel:
    """XLM-R with random weights; what is not given of the architecture is XLM-R base's."""
    config = xlm_roberta_config(**architecture)
    return XLMRobertaModel._from_config(
        config, attn_implementation=attention, add_pooling_layer=False
    )


def xlm_roberta_config(**architecture: Any) -> XLMRobertaConfig:
    """XLM-R base's architecture (12 layers, 768 units, 250,002 subwords), changed as given."""
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    sizes = {"vocab_size": 250_002, "max_position_embeddings": 514, "type_vocab_size": 1}
    return XLMRobertaConfig(**special | sizes | {"layer_norm_eps": 1e-5} | architecture)
