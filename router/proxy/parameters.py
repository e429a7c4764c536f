"""The configured parameters (`params`) that each operation takes.

One endpoint may serve chats, completions and embeddings, and its `params` stand in the file once. Strict servers answer
400 to a parameter that they do not know.
"""

from __future__ import annotations

from router.core.call import Operation

# OpenAI, vLLM, Cohere, Voyage, Jina, Mistral, NVIDIA and Gemini.
_EMBEDDINGS_ONLY = """
    dimensions encoding_format input_type normalize normalized embedding_type embedding_types output_dtype
    output_dimension task task_type late_chunking instruction prompt_name modality additional_data
"""
_EMBEDDINGS_TOO = """
    user priority truncate truncation truncate_prompt_tokens add_special_tokens mm_processor_kwargs title provider
    metadata extra_body
"""
_CHAT_ONLY = """
    tools tool_choice parallel_tool_calls tool_stream functions function_call max_completion_tokens top_logprobs
    reasoning reasoning_effort reasoning_split thinking thinking_budget enable_thinking include_reasoning chat_template
    chat_template_kwargs add_generation_prompt continue_final_message modalities audio prediction verbosity
    web_search_options store
"""
_COMPLETIONS_ONLY = "suffix echo best_of"

_TAKEN_BY_EMBEDDINGS = frozenset((_EMBEDDINGS_ONLY + _EMBEDDINGS_TOO).split())
_NOT_FOR_CHATS = frozenset(f"{_EMBEDDINGS_ONLY} {_COMPLETIONS_ONLY}".split())
_NOT_FOR_COMPLETIONS = frozenset((_EMBEDDINGS_ONLY + _CHAT_ONLY).split())


def takes(operation: Operation, name: str) -> bool:
    """True if a configured parameter is for this operation. Unknown ones are for chats and completions."""
    if operation == "embeddings":
        return name in _TAKEN_BY_EMBEDDINGS
    return name not in (_NOT_FOR_COMPLETIONS if operation == "completions" else _NOT_FOR_CHATS)
