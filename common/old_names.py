"""Arguments that have another name now, or none, and what to write instead."""

NO_TOKEN = (
    "is refused: log in with `hf auth login`, or set HF_TOKEN in the environment; a token must never be written to disk"
)
# Names from older scripts, and what to do instead. None of them is accepted, shown in --help or written to a config.
CURES = {
    "warmup_ratio": "is gone in transformers 5: use warmup_steps: {value} (below 1 it is the share of all steps)",
    "group_by_length": "is gone in transformers 5: use train_sampling_strategy: group_by_length",
    "evaluation_strategy": "is gone in transformers 5: use eval_strategy: {value}",
    "overwrite_output_dir": "is gone in transformers 5: choose a new output_dir or delete the old one",
    "no_cuda": "is gone in transformers 5: use use_cpu: true",
    "use_mps_device": "is gone in transformers 5: leave it out, MPS is used where there is one",
    "logging_dir": "is gone in transformers 5: set TENSORBOARD_LOGGING_DIR in the environment",
    "save_safetensors": "is gone in transformers 5: leave it out, weights are always saved as safetensors",
    "include_inputs_for_metrics": "is gone in transformers 5: use include_for_metrics: inputs",
    "include_tokens_per_second": "is gone in transformers 5: use include_num_input_tokens_seen: all",
    "per_gpu_train_batch_size": "is gone in transformers 5: use per_device_train_batch_size: {value}",
    "per_gpu_eval_batch_size": "is gone in transformers 5: use per_device_eval_batch_size: {value}",
    "adafactor": "is gone in transformers 5: use optim: adafactor",
    "push_to_hub_model_id": "is gone in transformers 5: use hub_model_id: {value}",
    "push_to_hub_organization": "is gone in transformers 5: write organization/name into hub_model_id",
    "fp16_backend": "is gone in transformers 5: leave it out, dtype sets the precision",
    "half_precision_backend": "is gone in transformers 5: leave it out, dtype sets the precision",
    "fp16_opt_level": "is gone in transformers 5: leave it out, dtype sets the precision",
    "dispatch_batches": "is gone in transformers 5: write it into accelerator_config",
    "split_batches": "is gone in transformers 5: write it into accelerator_config",
    "fsdp_min_num_params": "is gone in transformers 5: write min_num_params into fsdp_config",
    "fsdp_transformer_layer_cls_to_wrap": (
        "is gone in transformers 5: write transformer_layer_cls_to_wrap into fsdp_config"
    ),
    "torchdynamo": "is gone in transformers 5: use torch_compile_backend: {value}",
    "ray_scope": "is gone in transformers 5: set RAY_SCOPE in the environment",
    "gradient_checkpointing": "is deprecated in transformers 5: use activation_checkpointing: {value}",
    "gradient_checkpointing_kwargs": "is deprecated in transformers 5: use activation_checkpointing_kwargs: {value}",
    "freeze_layers": "has another name here: use freeze: first_{value}_layers (leave it out for 0)",
    "tokenizer_name": "has another name here: use tokenizer_name_or_path: {value}",
    "lora_target_modules": "has another name, since other methods read it too: use target_modules: {value}",
    "torch_dtype": "has another name here: use dtype: {value}",
    "enable_jit_checkpoint": "is always so here, on SIGTERM, SIGINT, SIGUSR1 and SIGHUP: leave it out",
    "hub_token": NO_TOKEN,
    "push_to_hub_token": NO_TOKEN,
}
