"""The formats of other programs: GPT-2 as Hugging Face and OpenAI publish it, Llama and Qwen3, the
book's files.
"""
