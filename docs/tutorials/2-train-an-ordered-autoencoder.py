# %% [markdown]
# # Train an ordered autoencoder
#
# What does training with truncation do to the codes, and what has it to do with PCA?
#
# An ordered autoencoder is trained with *nested dropout*: for every sample a number `k` is drawn,
# and the decoder sees only the first `k` codes. So the first code learns what matters most. With a
# linear encoder and decoder, and no quantization, the optimum is known: the principal components in
# order. We use that case to see that the training works, then train a real one.

# %%
import torch
from sklearn.datasets import load_digits

import anytime_ar as aar
from anytime_ar.autoencoder import AutoencoderConfig, OrderedAutoencoder, Truncation

digits = torch.from_numpy(load_digits().data).float() / 8 - 1  # [1797, 64] in [-1, 1]
x = (digits - digits.mean(0)).view(-1, 1, 8, 8)

# %% [markdown]
# ## The linear case: PCA emerges
#
# Eight codes of width 1, no quantizer, linear maps. `fill` stands in for codes that are not there.

# %%
L = 8
torch.manual_seed(0)
linear = AutoencoderConfig.parse(
    {
        "layout": "linear",
        "code_length": L,
        "code_width": 1,
        "quantizer": {"kind": "none"},
        "fill": "zeros",
    },
    origin="tutorial",
)
model = OrderedAutoencoder(linear, (1, 8, 8))
truncation = Truncation.uniform(L)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2000)
generator = torch.Generator().manual_seed(0)
for _ in range(2000):
    batch = x[torch.randint(len(x), (512,), generator=generator)]
    num_kept = truncation.sample(len(batch), generator)  # k for each sample
    decoded = model.decode_vectors(model.encode_vectors(batch), num_kept).samples
    loss = (decoded - batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

# %% [markdown]
# The error after `k` codes, beside that of `k` principal components:

# %%
_, _, components = torch.linalg.svd(x.flatten(1), full_matrices=False)
with torch.no_grad():
    vectors = model.encode_vectors(x)
    for k in range(1, L + 1):
        decoded = model.decode_vectors(vectors, torch.full((len(x),), k)).samples
        ours = float((decoded - x).square().mean())
        basis = components[:k]
        flat = x.flatten(1)
        pca = float((flat @ basis.T @ basis - flat).square().mean())
        print(f"{k} codes: {ours:.4f}   {k} components: {pca:.4f}")
        assert ours < 1.1 * pca

# %% [markdown]
# ## A real one
#
# The configuration `digits` trains a convolutional autoencoder with vector quantization, and a
# Transformer prior over its codes. Here for a few steps only; `anytime train digits` runs it whole.

# %%
trained = aar.train(
    {
        "name": "tutorial",
        "data": {"name": "digits"},
        "autoencoder": {"code_length": 8, "code_width": 4, "quantizer": {"vocabulary": 16}},
        "autoencoder_training": {"steps": 150, "batch_size": 64},
        "prior": {"layers": 1, "width": 32, "heads": 2},
        "prior_training": {"steps": 100, "batch_size": 64},
    },
    device="cpu",
    show_progress=False,
)
print(trained)
codes = trained.encode(digits.view(-1, 1, 8, 8)[:256].clamp(-1, 1))
for k in (1, 2, 4, 8):
    decoded = trained.decode(codes[:, :k])
    error = (decoded - digits.view(-1, 1, 8, 8)[:256]).square().mean()
    print(k, "codes:", f"squared error {float(error):.3f}")
