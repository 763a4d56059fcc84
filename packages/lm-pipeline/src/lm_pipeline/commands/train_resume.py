"""Policy of what a resumed training run may change, key by key, and its plan (`lm_core.run.resume`).

config, run --extended_config--> config with the schedule past its old end --> Plan --resumed--> Plan of the resumed run
"""

from dataclasses import replace
from typing import Any

from lm_core.config import DECAYING, ScheduleConfig
from lm_core.errors import UserError
from lm_core.run.plan import Plan
from lm_core.run.resume import Policy, Recorded
from lm_core.schedules import extended
from lm_pipeline.commands.train_config import TrainConfig

POLICY = Policy(
    # The weights, the optimizer's state, the order of the data, and what the validation losses are measured on.
    refused="""
        seed init_from
        model.vocab_size model.seq_len model.d_model model.n_layers model.n_heads model.n_kv_heads model.d_ff model.norm
        model.norm_eps model.mlp model.positions model.rope_theta model.bias model.head_bias model.tie_embeddings
        model.init_std model.depth_scaled_init
        optimizer.name optimizer.buckets optimizer.decay optimizer.max_ratio optimizer.average
        source.train source.validation source.validation_fraction source.format source.text_field source.separator
        source.special_tokens source.shard_bytes
        data.validation data.tokenizer data.eval_tokens data.pad_vocab_to data.segments
    """,
    # Token files count by what they hold, not by where they are.
    recorded="""
        data.train data.order data.shuffle_block data.skip_bad_shards model.dropout
        optimizer.beta1 optimizer.beta2 optimizer.eps optimizer.bias_correction optimizer.weight_decay
        optimizer.decay_groups optimizer.grad_clip optimizer.beta2_max optimizer.beta2_min optimizer.alpha
        optimizer.tiny_spike optimizer.tiny_denom optimizer.adaptive_tiny optimizer.warmup_steps optimizer.momentum
        optimizer.nesterov optimizer.ns_steps optimizer.scale optimizer.lr_factor
        schedule.kind schedule.peak_lr schedule.warmup_steps schedule.max_steps schedule.min_factor schedule.decay_steps
        schedule.start_step schedule.points schedule.correction_warmup
        training.max_steps training.batch_size training.eval_every training.eval_ends training.eval_average
        training.early_stop_patience training.early_stop_min_delta training.early_stop_warmup
        backend step.dtype step.matmul_precision step.deterministic step.kernels step.compile step.device
        step.grad_accum_steps
    """,
    # Shards count by what they hold, not by where they are, and a run keeps the tokenizer that it started with.
    no_effect="""
        source.output source.vocab_size
        step.parallel step.cuda_graph step.weights_dtype step.varying_length step.gradient_checkpointing
        step.gradient_checkpointing_every step.barrier_every
        training.log_every training.log_norms training.save_every training.save_best training.keep
        training.sample_tokens training.sample_prompt
        logging.backend logging.run_name logging.architecture logging.dataset wandb.entity wandb.project
    """,
    call="config print_config resume save_dir schedule.on_resume training.max_tokens",
)
ADVICE = "this is fixed for a run: leave it out, or start another run (init_from takes this one's weights)"


def extended_config(config: TrainConfig, known: Recorded[TrainConfig] | None) -> TrainConfig:
    """The config with the schedule that `schedule.on_resume` asks for.

    Raises:
        UserError: when it cannot be had.
    """
    how, last = config.schedule.on_resume, config.training.max_steps
    if how is None:
        return config
    if not (known and known.checkpoint):
        raise UserError("schedule.on_resume: there is nothing to resume; leave it out")
    so_far, step = schedule_of(known.before), known.checkpoint.step
    typed = {**config.schedule.model_dump(exclude={"on_resume"}), "max_steps": so_far.max_steps}
    extended(so_far.model_copy(update=typed), how, step, last)
    end = so_far.max_steps if how == "floor" else 0
    start = step if how == "warmup" else config.schedule.start_step
    chosen = config.schedule.model_copy(update={"on_resume": None, "max_steps": end, "start_step": start})
    return config.model_copy(update={"schedule": chosen})


def check_source(known: Recorded[TrainConfig], config: TrainConfig) -> None:
    """Refuse text that is not the run's, before it is encoded.

    Raises:
        UserError: when a key of the source differs that must not.
    """
    now = config.model_copy(update={"source": config.source.with_absolute_paths()})
    keys = [key for key, _ in POLICY.decisions if key.startswith("source.")]
    POLICY.check(known.before, now, ADVICE, only=keys)


def resumed(made: Plan, known: Recorded[TrainConfig]) -> Plan:
    """The plan of a run that is resumed.

    Raises:
        UserError: when a key differs that must not.
    """
    plan = made.resumed(known, schedule_of, advice=ADVICE, batch_size=known.before.training.batch_size)
    before, now = schedule_of(known.before), plan.schedule
    is_longer = "training.max_steps" in {change.key for change in plan.history.changes}
    if is_longer and now.kind in DECAYING and (now != before or plan.loop.max_steps > now.max_steps):
        choice = "note: --schedule.on_resume stretch, floor or warmup chooses how the decay continues"
        return replace(plan, notes=[*plan.notes, choice])
    return plan


def schedule_of(config: TrainConfig) -> ScheduleConfig:
    """The learning rate over the run, which ends with it unless another end is given.

    Raises:
        UserError: when the keys contradict each other.
    """
    values: dict[str, Any] = config.schedule.model_dump(mode="json", exclude={"on_resume"})
    return ScheduleConfig.parse({**values, "max_steps": values["max_steps"] or config.training.max_steps}, "schedule")
