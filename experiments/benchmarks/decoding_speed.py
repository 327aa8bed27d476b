"""Beam search beside Hugging Face, CTranslate2 and a plain torch loop (bar 4), and early exit.

    python -m experiments.benchmarks.decoding_speed

All run in this process, in turns, warm, on the same weights; every ratio is of two neighbouring
turns. The models are random and never prefer EOS, so that all run to the longest length; the early
exit is measured on a model that ends after five tokens. `products` are the matrix products of the
steps alone. Needs torch, transformers, ctranslate2.
"""

import dataclasses
import os
import tempfile
import time

import ctranslate2
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
import tyro

from experiments.benchmarks.record import record
from jaxembed.convert.huggingface.seq2seq import from_huggingface
from jaxembed.decoding import beam_search
from jaxembed.models import Seq2Seq
from jaxembed.models.seq2seq import translate

PAD, BOS, EOS = 1, 0, 2


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of what is measured; `sizes` are width, vocabulary and layers of the models."""

    sizes: tuple[tuple[int, int, int], ...] = ((64, 400, 2), (64, 8000, 2), (256, 8000, 3))
    batches: tuple[int, ...] = (1, 16, 64)
    beam: int = 4
    source_len: int = 20
    max_len: int = 32
    vocab: int = 8000
    width: int = 256
    layers: int = 3
    rounds: int = 7
    threads: int = 2
    seed: int = 0


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    for width, vocab, layers in config.sizes:
        now = dataclasses.replace(config, sizes=(), width=width, vocab=vocab, layers=layers)
        transformer(now)
        recurrent(now)
        early_exit(now)


def transformer(config: Config) -> None:
    options = transformers.BartConfig(
        vocab_size=config.vocab,
        d_model=config.width,
        encoder_layers=config.layers,
        decoder_layers=config.layers,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=4 * config.width,
        decoder_ffn_dim=4 * config.width,
        max_position_embeddings=128,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=EOS,
        forced_eos_token_id=None,
    )
    theirs = transformers.BartForConditionalGeneration(options).eval()
    theirs.final_logits_bias[0, [EOS, PAD]] = -30.0
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    model, params = from_huggingface(options.to_dict(), state)
    params = jax.device_put(params)
    search = make_search(model, config, EOS, "huggingface-false")
    translator = load_ctranslate2(theirs, config)
    for batch in config.batches:
        source = draw(config, batch)
        lengths = np.full(batch, config.source_len, np.int32)
        ids = torch.tensor(source, dtype=torch.long)
        words = [[f"w{token}" for token in row] for row in source]

        def ours(source=source, lengths=lengths):
            return jax.block_until_ready(search(params, source, lengths))

        def generate(ids=ids):
            with torch.no_grad():
                return theirs.generate(
                    ids, num_beams=config.beam, max_new_tokens=config.max_len, do_sample=False
                )

        def translate_words(words=words):
            return translator.translate_batch(
                words, beam_size=config.beam, max_decoding_length=config.max_len
            )

        width, layers = config.width, config.layers
        square, wide = [(width, width)] * 6, [(width, 4 * width), (4 * width, width)]
        report(
            config,
            "transformer",
            batch,
            ours,
            products=products(config, batch, layers * (square + wide) + [(width, config.vocab)]),
            huggingface=generate,
            ctranslate2=translate_words,
        )


def recurrent(config: Config) -> None:
    model = Seq2Seq(config.vocab, config.vocab, embed_dim=config.width, width=config.width)
    source = draw(config, 1)
    lengths = np.full(1, config.source_len, np.int32)
    variables = jax.jit(model.init)(jax.random.key(config.seed), source, lengths, source)
    params = variables["params"]
    params["output"]["bias"] = params["output"]["bias"].at[EOS].set(-30.0)
    search = make_search(model, config, BOS, "exact")
    loop = TorchLoop(jax.tree.map(np.asarray, params), config)
    for batch in config.batches:
        source = draw(config, batch)
        lengths = np.full(batch, config.source_len, np.int32)
        ids = torch.tensor(source, dtype=torch.long)

        def ours(source=source, lengths=lengths):
            return jax.block_until_ready(search(params, source, lengths))

        def theirs(ids=ids):
            with torch.no_grad():
                return loop.beam(ids)

        same = np.mean(np.asarray(ours().tokens[:, 0]) == theirs().numpy())
        width = config.width
        shapes = [(width, width), (3 * width, 3 * width), (width, 3 * width), (4 * width, width)]
        report(
            config,
            "recurrent",
            batch,
            ours,
            extra={"same_tokens": float(same)},
            products=products(config, batch, [*shapes, (width, config.vocab)]),
            torch=theirs,
        )


def products(config: Config, batch: int, shapes: list[tuple[int, int]]):
    """The steps' matrix products alone, by torch: what float32 takes at the least."""
    rows = batch * config.beam
    pairs = [(torch.randn(rows, shape[0]), torch.randn(*shape[::-1])) for shape in shapes]

    def multiply():
        with torch.no_grad():
            for _ in range(config.max_len):
                for inputs, weight in pairs:
                    torch.nn.functional.linear(inputs, weight)

    return multiply


def early_exit(config: Config) -> None:
    """A batch that ends after five tokens, with little and with much room."""
    batch, width = 16, config.width
    weight = jax.random.normal(jax.random.key(0), (width, config.vocab)) * 0.01

    def search(max_len):
        def step(tokens, cache):
            now = cache["now"] + 1
            state = jnp.tanh(cache["state"] + tokens[:, None] * 1e-3)
            logits = (state @ weight).at[:, EOS].add(jnp.where(now < 5, -50.0, 50.0))
            return logits, {"now": now, "state": state}

        def run(state):
            cache = {"now": jnp.zeros(batch, jnp.int32), "state": state}
            return beam_search(
                step,
                cache,
                batch_size=batch,
                beam_size=config.beam,
                bos_id=BOS,
                eos_id=EOS,
                max_len=max_len,
            )

        return jax.jit(run)

    state = jax.random.normal(jax.random.key(1), (batch, width))
    short, long = search(6), search(256)
    short(state), long(state)
    turns = [
        (
            seconds(lambda: jax.block_until_ready(long(state))),
            seconds(lambda: jax.block_until_ready(short(state))),
        )
        for _ in range(4 * config.rounds)
    ]
    mine, least = np.asarray(turns).T
    row = {"bar": 4, "model": "ends at 5", **dataclasses.asdict(config)}
    row["milliseconds_room_256"] = round(1e3 * float(np.median(mine)), 3)
    row["milliseconds_room_6"] = round(1e3 * float(np.median(least)), 3)
    row["ratio_median"] = round(float(np.median(mine / least)), 3)
    record("decoding_speed", row)


class TorchLoop:
    """The recurrent model on torch's own modules, and beam search in a plain loop."""

    def __init__(self, params: dict, config: Config) -> None:
        width = config.width
        self.config = config
        self.source = torch.tensor(params["source_embedding"]["embedding"])
        self.target = torch.tensor(params["target_embedding"]["embedding"])
        self.encoder = torch.nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.cell = torch.nn.GRUCell(3 * width, width)
        ways = [(self.encoder, "_l0", params["encoder"]["forward_0"])]
        ways += [(self.encoder, "_l0_reverse", params["encoder"]["backward_0"])]
        ways += [(self.cell, "", params["decoder"]["forward_0"])]
        names = {"weight_ih": "input_kernel", "weight_hh": "state_kernel"}
        names |= {"bias_ih": "input_bias", "bias_hh": "state_bias"}
        with torch.no_grad():
            for module, ending, values in ways:
                for theirs, ours in names.items():
                    getattr(module, theirs + ending).copy_(torch.tensor(values[ours].T))
        self.bridge = as_linear(params["bridges_0"])
        self.query = as_linear(params["attention"]["query"])
        self.key = as_linear(params["attention"]["key"])
        self.score = as_linear(params["attention"]["score"])
        self.readout = as_linear(params["readout"])
        self.output = as_linear(params["output"])

    def step(self, tokens, state, memory, keys):
        """Logits and the new state."""
        scores = self.score(torch.tanh(self.query(state)[:, None] + keys))[..., 0]
        weights = torch.softmax(scores, dim=-1)
        seen = torch.bmm(weights[:, None], memory)[:, 0]
        embedded = self.target[tokens]
        state = self.cell(torch.cat([embedded, seen], dim=-1), state)
        features = torch.cat([state, seen, embedded], dim=-1)
        return self.output(torch.tanh(self.readout(features))), state

    def beam(self, source):
        """The best live beginning of each item."""
        batch, size = len(source), self.config.beam
        memory, final = self.encoder(self.source[source])
        state = torch.tanh(self.bridge(torch.cat([final[0], final[1]], dim=-1)))
        memory, state = (x.repeat_interleave(size, dim=0) for x in (memory, state))
        keys = self.key(memory)
        totals = torch.full((batch, size), -1e9)
        totals[:, 0] = 0.0
        tokens = torch.full((batch * size,), BOS)
        history = torch.zeros((batch, size, 0), dtype=torch.long)
        done = [[] for _ in range(batch)]
        for _ in range(self.config.max_len):
            logits, state = self.step(tokens, state, memory, keys)
            values = torch.log_softmax(logits, dim=-1).view(batch, size, -1)
            vocab = values.shape[-1]
            sums, ids = (totals[..., None] + values).view(batch, -1).topk(2 * size)
            parents, tokens = ids // vocab, ids % vocab
            grown = torch.cat(
                [history.gather(1, parents[..., None].expand(-1, -1, history.shape[2])),
                 tokens[..., None]], dim=2,
            )  # fmt: skip
            ends = tokens == EOS
            for item, place in torch.nonzero(ends[:, :size]).tolist():
                done[item].append((sums[item, place].item(), grown[item, place]))
            totals, order = sums.masked_fill(ends, -1e9).topk(size)
            parents, tokens = parents.gather(1, order), tokens.gather(1, order)
            history = grown.gather(1, order[..., None].expand(-1, -1, grown.shape[2]))
            rows = (parents + size * torch.arange(batch)[:, None]).view(-1)
            state, tokens = state[rows], tokens.view(-1)
            if all(len(found) >= size for found in done):
                break
        return history[:, 0]


def as_linear(dense: dict):
    kernel, bias = torch.tensor(dense["kernel"].T.copy()), dense.get("bias")
    bias = None if bias is None else torch.tensor(bias)
    return lambda x: torch.nn.functional.linear(x, kernel, bias)


def make_search(model, config: Config, start: int, stop: str):
    def search(params, source, lengths):
        return translate(
            model,
            params,
            source,
            lengths,
            bos_id=start,
            eos_id=EOS,
            max_len=config.max_len,
            beam_size=config.beam,
            stop=stop,
            length_penalty="length" if stop != "exact" else "none",
        )

    return jax.jit(search)


def load_ctranslate2(theirs, config: Config):
    """Their model as CTranslate2's, whose converter expects an older configuration."""
    options = theirs.config
    options.normalize_before = options.add_final_layer_norm = False
    options.normalize_embedding, options.static_position_embeddings = True, False
    options.add_bias_logits, options.extra_pos_embeddings = True, 2
    loader = ctranslate2.converters.transformers._MODEL_LOADERS["BartConfig"]
    spec = loader.get_model_spec(theirs)
    words = [f"w{index}" for index in range(config.vocab)]
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.bos_token, spec.config.eos_token = f"w{BOS}", f"w{EOS}"
    spec.config.unk_token, spec.config.decoder_start_token = f"w{PAD}", f"w{EOS}"
    spec.config.add_source_bos = spec.config.add_source_eos = False
    spec.validate()
    spec.optimize()
    folder = tempfile.mkdtemp()
    spec.save(str(folder))
    return ctranslate2.Translator(
        folder, compute_type="float32", inter_threads=1, intra_threads=config.threads
    )


def draw(config: Config, batch: int) -> np.ndarray:
    rng = np.random.default_rng(config.seed + batch)
    return rng.integers(3, config.vocab, (batch, config.source_len)).astype(np.int32)


def report(config: Config, model: str, batch: int, ours, extra=None, **peers) -> None:
    for run in (ours, *peers.values()):
        run()
    turns = [[seconds(run) for run in (ours, *peers.values())] for _ in range(config.rounds)]
    turns = np.asarray(turns)
    row = {"bar": 4, "model": model, "batch": batch, **dataclasses.asdict(config), **(extra or {})}
    # A busy machine slows threads that wait for one another most: look at the least, too.
    row["load"] = round(os.getloadavg()[0], 2)
    row["milliseconds"] = round(1e3 * float(np.median(turns[:, 0])), 2)
    row["milliseconds_least"] = round(1e3 * float(turns[:, 0].min()), 2)
    for place, name in enumerate(peers, 1):
        ratios = turns[:, place] / turns[:, 0]
        row[f"{name}_milliseconds"] = round(1e3 * float(np.median(turns[:, place])), 2)
        row[f"{name}_milliseconds_least"] = round(1e3 * float(turns[:, place].min()), 2)
        row[f"{name}_over_ours_median"] = round(float(np.median(ratios)), 2)
        row[f"{name}_over_ours_least"] = round(float(ratios.min()), 2)
        row[f"{name}_least_over_ours_least"] = round(
            float(turns[:, place].min() / turns[:, 0].min()), 2
        )
    record("decoding_speed", row)


def seconds(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(tyro.cli(Config))
