"""The book's model, training loop and text generation (chapters 4 and 5), to compare with.

From "Build a Large Language Model (From Scratch)" (Sebastian Raschka, Manning 2024), Apache License
2.0, https://github.com/rasbt/LLMs-from-scratch; names are shortened, the device is left out, the
dataset takes ids, and the loop returns its evaluations.
"""

import torch
from torch import nn

from firstlight.model.gpt import GPT


class MultiHeadAttention(nn.Module):
    def __init__(self, d, context_length, drop_rate, n_heads, qkv_bias):
        super().__init__()
        self.d, self.n_heads, self.head_dim = d, n_heads, d // n_heads
        self.W_query = nn.Linear(d, d, bias=qkv_bias)
        self.W_key = nn.Linear(d, d, bias=qkv_bias)
        self.W_value = nn.Linear(d, d, bias=qkv_bias)
        self.out_proj = nn.Linear(d, d)
        self.dropout = nn.Dropout(drop_rate)
        self.register_buffer(
            "mask", torch.triu(torch.ones(context_length, context_length), diagonal=1)
        )

    def forward(self, x):
        b, n, _ = x.shape
        keys, queries, values = (
            p(x).view(b, n, self.n_heads, self.head_dim).transpose(1, 2)
            for p in (self.W_key, self.W_query, self.W_value)
        )
        scores = queries @ keys.transpose(2, 3)
        scores.masked_fill_(self.mask.bool()[:n, :n], -torch.inf)
        weights = self.dropout(torch.softmax(scores / keys.shape[-1] ** 0.5, dim=-1))
        context = (weights @ values).transpose(1, 2).contiguous().view(b, n, self.d)
        return self.out_proj(context)


class LayerNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.eps, self.scale, self.shift = (
            1e-5,
            nn.Parameter(torch.ones(d)),
            nn.Parameter(torch.zeros(d)),
        )

    def forward(self, x):
        mean, var = x.mean(dim=-1, keepdim=True), x.var(dim=-1, keepdim=True, unbiased=False)
        return self.scale * (x - mean) / torch.sqrt(var + self.eps) + self.shift


class GELU(nn.Module):
    def forward(self, x):
        inner = torch.sqrt(torch.tensor(2.0 / torch.pi)) * (x + 0.044715 * torch.pow(x, 3))
        return 0.5 * x * (1 + torch.tanh(inner))


class FeedForward(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(d, 4 * d), GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        return self.layers(x)


class TransformerBlock(nn.Module):
    def __init__(self, d, context_length, drop_rate, n_heads, qkv_bias):
        super().__init__()
        self.att = MultiHeadAttention(d, context_length, drop_rate, n_heads, qkv_bias)
        self.ff = FeedForward(d)
        self.norm1, self.norm2 = LayerNorm(d), LayerNorm(d)
        self.drop_shortcut = nn.Dropout(drop_rate)

    def forward(self, x):
        x = self.drop_shortcut(self.att(self.norm1(x))) + x
        return self.drop_shortcut(self.ff(self.norm2(x))) + x


class GPTModel(nn.Module):
    """The book's model, with the sizes and weights of `ours`."""

    def __init__(self, ours: GPT, drop_rate: float = 0.0) -> None:
        super().__init__()
        d, block = ours.tok_emb.embedding_dim, ours.trf_blocks[0].att
        self.tok_emb = nn.Embedding(ours.vocab_size, d)
        self.pos_emb = nn.Embedding(ours.context_length, d)
        self.drop_emb = nn.Dropout(drop_rate)
        qkv_bias = block.W_query.bias is not None
        self.trf_blocks = nn.Sequential(
            *(
                TransformerBlock(d, ours.context_length, drop_rate, block.n_heads, qkv_bias)
                for _ in ours.trf_blocks
            )
        )
        self.final_norm = LayerNorm(d)
        self.out_head = nn.Linear(d, ours.vocab_size, bias=False)
        theirs = dict(self.named_parameters())
        with torch.no_grad():
            for name, weight in ours.state_dict().items():
                renamed = name
                for norm in ("norm", "norm1", "norm2"):
                    renamed = renamed.replace(f"{norm}.weight", f"{norm}.scale")
                    renamed = renamed.replace(f"{norm}.bias", f"{norm}.shift")
                theirs[renamed].copy_(weight)

    def forward(self, ids):
        positions = self.pos_emb(torch.arange(ids.shape[1], device=ids.device))
        x = self.drop_emb(self.tok_emb(ids) + positions)
        return self.out_head(self.final_norm(self.trf_blocks(x)))


def generate_text_simple(model, idx, max_new_tokens, context_size):
    for _ in range(max_new_tokens):
        idx_cond = idx[:, -context_size:]
        with torch.no_grad():
            logits = model(idx_cond)
        logits = logits[:, -1, :]
        probas = torch.softmax(logits, dim=-1)
        idx_next = torch.argmax(probas, dim=-1, keepdim=True)
        idx = torch.cat((idx, idx_next), dim=1)
    return idx


class GPTDatasetV1(torch.utils.data.Dataset):
    def __init__(self, ids, max_length, stride):
        starts = range(0, len(ids) - max_length, stride)
        self.input_ids = [torch.tensor(ids[i : i + max_length]) for i in starts]
        self.target_ids = [torch.tensor(ids[i + 1 : i + max_length + 1]) for i in starts]

    def __len__(self):
        return len(self.input_ids)

    def __getitem__(self, idx):
        return self.input_ids[idx], self.target_ids[idx]


def calc_loss_batch(input_batch, target_batch, model):
    return nn.functional.cross_entropy(model(input_batch).flatten(0, 1), target_batch.flatten())


def calc_loss_loader(data_loader, model, num_batches):
    num_batches = min(num_batches, len(data_loader))
    total_loss = 0.0
    for i, (input_batch, target_batch) in enumerate(data_loader):
        if i >= num_batches:
            break
        total_loss += calc_loss_batch(input_batch, target_batch, model).item()
    return total_loss / num_batches


def evaluate_model(model, train_loader, val_loader, eval_iter):
    model.eval()
    with torch.no_grad():
        losses = [
            calc_loss_loader(loader, model, eval_iter) for loader in (train_loader, val_loader)
        ]
    model.train()
    return losses


def train_model_simple(
    model, train_loader, val_loader, optimizer, num_epochs, eval_freq, eval_iter, start_context
):
    """Train, and return the step, training loss and validation loss of each evaluation.

    `start_context` is the ids (1, T) of a prompt.
    """
    evaluations, global_step = [], -1
    for _ in range(num_epochs):
        model.train()
        for input_batch, target_batch in train_loader:
            optimizer.zero_grad()
            loss = calc_loss_batch(input_batch, target_batch, model)
            loss.backward()
            optimizer.step()
            global_step += 1
            if global_step % eval_freq == 0:
                losses = evaluate_model(model, train_loader, val_loader, eval_iter)
                evaluations.append((global_step, *losses))
                print(
                    f"Step {global_step:06d}: Train loss {losses[0]:.3f}, Val loss {losses[1]:.3f}",
                    flush=True,
                )
        model.eval()
        generate_text_simple(model, start_context, 50, model.pos_emb.weight.shape[0])
    return evaluations
