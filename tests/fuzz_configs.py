"""Random settings of very small runs: every choice that changes what is computed, and sizes down to one."""

from functools import partial

from hypothesis import strategies as st

from worldmodel import config


def one_of(*values):
    return st.sampled_from(values)


def section(kind, **fields):
    """A section of a configuration, yet to be made: making one runs beartype, which draws random numbers of its own."""
    return st.fixed_dictionaries(fields).map(lambda values: partial(kind, **values))


WIDTHS = one_of(1, 2, 5, 8)
SECTIONS = {
    "encoder": section(
        config.EncoderConfig,
        inputs=one_of("standardise", "symlog", "raw"),
        layers=one_of(1, 2),
        units=WIDTHS,
        depth=one_of(1, 3),
        reward=st.booleans(),
        skip=st.booleans(),
    ),
    "rssm": st.one_of(
        *(
            section(
                config.RSSMConfig,
                cell=st.just(cell),
                blocks=st.just(blocks),
                deter=WIDTHS.map(lambda width, blocks=blocks: width * blocks),
                hidden=WIDTHS,
                latent=one_of("gaussian", "gaussian_full", "categorical"),
                stoch=one_of(1, 3),
                classes=one_of(1, 2, 5),
                unimix=one_of(0.0, 0.01, 0.9),
                min_std=one_of(0.01, 1.0),
                posterior_layers=one_of(1, 2),
                prior_layers=one_of(1, 2),
                posterior=one_of("filtering", "smoothing"),
                skip=st.booleans(),
            )
            for cell, blocks in (("gru", 1), ("bare_gru", 1), ("block_gru", 1), ("block_gru", 3))
        )
    ),
    "decoder": section(
        config.DecoderConfig,
        layers=one_of(1, 2),
        units=WIDTHS,
        depth=one_of(1, 3),
        vector=one_of("gaussian", "symlog"),
        reward=one_of("gaussian", "symlog", "twohot", "categorical"),
        standardise=st.booleans(),
        std=one_of("learned", "fixed"),
        fixed_std=one_of(0.1, 1.0),
        resolution=one_of(0.01, 1.0),
        skip=st.booleans(),
    ),
    "loss": st.one_of(
        section(config.LossConfig, beta=one_of(0.0, 1.0, 5.0), observation_scale=one_of(0.0, 1.0, 3.0)),
        section(
            config.LossConfig,
            alpha=one_of(None, 0.0, 0.8),
            free_nats=one_of(0.0, 1.0, 100.0),
            free_nats_rule=one_of("step", "mean", "excess"),
        ),
        section(
            config.LossConfig,
            dyn=one_of(0.0, 0.5),
            rep=one_of(0.1),
            free_nats=one_of(0.0, 1.0),
            reward_scale=one_of(0.5),
        ),
    ),
    "optimizer": section(
        config.OptimizerConfig, warmup=one_of(0, 1), clip_norm=one_of(0.1, 1000.0), weight_decay=one_of(0.0, 0.1)
    ),
}


@st.composite
def configs(draw):
    """The sections of a small run."""
    length, count = draw(one_of(1, 2, 5, 9)), draw(st.integers(1, 3))
    room = 2 * length * count + draw(one_of(0, 1, 7, 1000))
    prefill = length + draw(st.integers(0, 40))
    batch, max_length = draw(st.integers(1, 3)), draw(st.integers(2, 9))
    restart = draw(st.booleans())
    context = draw(st.integers(1, max_length - 1))
    return {
        "env": partial(
            config.EnvConfig,
            id="Fuzz-v0",
            num_envs=count,
            action_repeat=draw(one_of(1, 1, 3)),
            time_limit=draw(one_of(None, None, 1, 4)),
            image_size=16,
            drop_text=draw(st.booleans()),
            integers=draw(one_of("mass", "mass", "density")),
        ),
        "replay": partial(
            config.ReplayConfig,
            capacity=room,
            batch_size=batch,
            sequence_length=length,
            burn_in=0 if restart else draw(st.integers(0, length - 1)),
            restart=restart,
        ),
        "training": partial(
            config.TrainingConfig,
            env_steps=prefill + 1,
            prefill=prefill,
            train_ratio=float(batch * length),
            autocast=draw(one_of(False, False, False, True)),
        ),
        "evaluation": partial(
            config.EvaluationConfig,
            episodes=draw(st.integers(1, 3)),
            max_length=max_length,
            context=context,
            horizon=draw(st.integers(1, max_length - context)),
            samples=draw(st.integers(1, 2)),
            particles=draw(one_of(0, 2, 3)),
            particle_episodes=draw(st.integers(1, 2)),
        ),
        **{name: draw(part) for name, part in SECTIONS.items()},
    }
