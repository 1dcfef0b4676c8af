"""Small random models of many architectures, for tests that look at the names of weights."""

import torch
import transformers

# Three layers each; encoder-decoders have two in the decoder.
ENCODER = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {
    "vocab_size": 50, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
T5 = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2}
ENCODER_DECODER = {
    "vocab_size": 50, "d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


def build(class_name: str, settings: dict) -> transformers.PreTrainedModel:
    """A model of the class with random weights, the same each time."""
    torch.manual_seed(0)
    model_class = getattr(transformers, class_name)
    return model_class(model_class.config_class(**settings))
