"""Other programs' formats: Hugging Face's GPT-2, Llama and Qwen3, OpenAI's, the book's."""
