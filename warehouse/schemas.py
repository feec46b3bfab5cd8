"""One Arrow schema per table: the contract for everything that travels between rooms.

Each table states its grain (what one row is), its key, its sort order and its row-group size.
Version 1 is the first that will be released. From then on a snapshot of each *released* schema is
kept beside its test: a later version only adds tables, and nullable columns at the end of a table
under new field ids (none is used again); older files are read as they are, NULL in what they lack.
Columns marked volatile differ between two equal nights by nature (times, latencies, worker); "the
same tables" means all others, sorted. Not here: how rows reach a file (publish.py), views
(catalog/).
"""

from __future__ import annotations

import pyarrow as pa

from warehouse.columns import Table, schema, words
from warehouse.errors import SchemaMismatch

SCHEMA_VERSION = 1

SCORED_STATUSES = ("ok", "ok_repaired")


STATUSES = words(
    "ok ok_repaired malformed refusal off_schema out_of_range non_finite empty truncated "
    "low_mass wrong_language too_long filtered timeout throttled error ambiguous"
)


_ALL = [
    Table(
        "prompts",
        "one row per prompt",
        schema(
            """
        prompt_id str, source str, purpose str, first_turn_sha256 str, messages text, extra text?,
        ingested_at time
        """
        ),
        key=("prompt_id",),
        sort=("prompt_id",),
        by_round=False,
        volatile=words("ingested_at"),
        dictionary=words("source purpose"),
        delta=words("prompt_id"),
    ),
    Table(
        "rollouts",
        "one row per sampled completion",
        schema(
            """
        rollout_id str, round i32?, prompt_id str, sample_index i16, purpose str,
        policy_revision str, tokenizer_sha256 str?, prompt_ids ids?, completion_ids ids?,
        behavior_logprobs floats?, logprobs_mode str?, completion text, completion_sha256 str,
        finish_reason str?, temperature f32?, top_p f32?, top_k i32?, max_tokens i32?,
        sampling_json str?, seed i64?, engine str, engine_version str, dtype str?, generated_at time
        """
        ),
        key=("rollout_id",),
        sort=("purpose", "prompt_id", "sample_index"),
        row_group_size=16_384,
        volatile=words("generated_at"),
        dictionary=words(
            "purpose policy_revision tokenizer_sha256 logprobs_mode finish_reason sampling_json "
            "engine engine_version dtype"
        ),
        delta=words("rollout_id prompt_id"),
    ),
    Table(
        "labels",
        "one row per rollout, labeler, revision and attempt",
        schema(
            """
        label_id str, label_key str, round i32?, rollout_id str, partner_rollout_id str?,
        prompt_id str, completion_sha256 str, labeler str, revision str, kind str, role str,
        family str?, criterion str, principle str?, mode str, pair_order str?, sample_index i16,
        attempt i16, is_final bool, supersedes str?, model str, model_revision str,
        tokenizer_sha256 str?, label_map_sha256 str?, backend str, backend_version str, device str?,
        dtype str?, batch_invariant bool?, template str?, template_sha256 str?,
        rendered_prompt_sha256 str?, rendered_prompt text?, sampling_json str?, seed i64?,
        structured_mode str?, raw_output text?, score_logprobs label_logprobs?, label_mass f64?,
        entropy f64?, status str, status_detail str?, error_type str?, error_message str?,
        score_raw f64?, score f64?, score_method str?, score_scale str?, rationale text?,
        stop_reason str?, window_count i16?, input_tokens i32?, output_tokens i32?,
        cached_input_tokens i32?, is_usage_estimated bool?, cost_usd f64?, price_table_version str?,
        latency_ms f64?, queue_ms f64?, retries i16?, request_id str?, provider_region str?,
        service_tier str?, code_version str?, worker str?, labeled_at time,
        is_cached bool?, is_consistent bool?, purpose str?
        """
        ),
        key=("label_id",),
        sort=("purpose", "labeler", "rollout_id", "sample_index", "attempt"),
        volatile=words(
            "latency_ms queue_ms retries request_id worker labeled_at is_cached cost_usd"
        ),
        dictionary=words(
            "labeler revision kind role family criterion principle mode pair_order model "
            "model_revision tokenizer_sha256 label_map_sha256 backend backend_version device "
            "dtype template template_sha256 sampling_json structured_mode status score_method "
            "score_scale stop_reason price_table_version provider_region service_tier "
            "code_version worker purpose"
        ),
        delta=words("rollout_id prompt_id"),
        folder="purpose",
    ),
    Table(
        "prompt_sums",
        "one row per round, hold-out prompt, labeler, revision and criterion: sums of its scores",
        schema(
            """
        round i32?, prompt_id str, labeler str, revision str, criterion str, role str,
        completions i64, high_count i64, score_sum f64?, score_squares f64?, score_max f64?,
        last_labeled_at time
        """
        ),
        key=("round", "labeler", "revision", "criterion", "prompt_id"),
        sort=("labeler", "revision", "criterion", "prompt_id"),
        volatile=words("last_labeled_at"),
        dictionary=words("labeler revision criterion role"),
        delta=words("prompt_id"),
    ),
    Table(
        "rewards",
        "one row per rollout and reward recipe",
        schema(
            """
        rollout_id str, recipe str, recipe_sha256 str, round i32?, prompt_id str, purpose str,
        is_eligible bool, excluded_reason str?, reward f32?, label_count i16, label_ids names,
        terms terms
        """
        ),
        key=("rollout_id", "recipe_sha256"),
        sort=("rollout_id", "recipe_sha256"),
        dictionary=words("recipe recipe_sha256 purpose excluded_reason"),
        delta=words("rollout_id prompt_id"),
    ),
    Table(
        "train_use",
        "one row per training run and rollout it considered",
        schema(
            """
        training_run_id str, round i32, rollout_id str, source_round i32?, is_used bool,
        excluded_reason str?, reward f32?, importance_weight f32?, advantage_mean f32?, epochs i16
        """
        ),
        key=("training_run_id", "rollout_id"),
        sort=("training_run_id", "rollout_id"),
        dictionary=words("training_run_id excluded_reason"),
        delta=words("rollout_id"),
    ),
    Table(
        "training_metrics",
        "one row per training run, step and metric",
        schema(
            """
        training_run_id str, round i32, metric str, step i32, epoch i16?, value f64?, logged_at time
        """
        ),
        key=("training_run_id", "metric", "step"),
        sort=("training_run_id", "metric", "step"),
        volatile=words("logged_at"),
        dictionary=words("training_run_id metric"),
    ),
    Table(
        "evaluations",
        "one row per round, labeler and metric on the hold-out prompts",
        schema(
            """
        round i32, policy_revision str, labeler str?, metric str, value f64?, low f64?, high f64?,
        unit str, method str, prompts i32, completions i32, samples_per_prompt i32
        """
        ),
        key=("round", "labeler", "metric"),
        sort=("round", "labeler", "metric"),
        dictionary=words("policy_revision labeler metric unit method"),
    ),
    Table(
        "rounds",
        "one row per round (night)",
        schema(
            """
        round i32, status str, reason str?, is_stopped bool, policy_revision_in str,
        policy_revision_out str, reference_revision str, training_run_id str?, recipe_sha256 str?,
        kl_coefficient_in f64?, kl_coefficient_out f64?, config text, config_sha256 str, seed i64,
        code_version str, package_versions str, stage_seconds str?, started_at time,
        finished_at time, decided_by str?, decided_why str?, decided_at time?
        """
        ),
        key=("round",),
        sort=("round",),
        volatile=words("code_version stage_seconds started_at finished_at decided_at"),
    ),
    Table(
        "preference_pairs",
        "one row per prompt, round and pair recipe: a chosen and a rejected rollout",
        schema(
            """
        prompt_id str, round i32?, recipe str, chosen_id str, rejected_id str, chosen_reward f32?,
        rejected_reward f32?, margin f32, probability f32?
        """
        ),
        key=("recipe", "chosen_id", "rejected_id"),
        sort=("prompt_id", "chosen_id", "rejected_id"),
        dictionary=words("recipe"),
        delta=words("prompt_id chosen_id rejected_id"),
    ),
    Table(
        "gold",
        "one row per rollout, criterion and annotator: a human verdict",
        schema(
            """
        rollout_id str, round i32?, criterion str, annotator str, score f64, sample str?,
        comment text?, judged_at time?
        """
        ),
        key=("rollout_id", "criterion", "annotator"),
        sort=("criterion", "rollout_id", "annotator"),
        dictionary=words("criterion annotator sample"),
    ),
    Table(
        "sentinels",
        "one row per round, labeler, revision and sentinel text",
        schema(
            """
        round i32, labeler str, revision str, sentinel_id str, kind str, criterion str, gold f64?,
        status str, score f64?, raw_output text?
        """
        ),
        key=("round", "labeler", "revision", "sentinel_id"),
        sort=("labeler", "sentinel_id"),
        dictionary=words("labeler revision kind criterion status"),
    ),
    Table(
        "templates",
        "one row per text that shaped a label or a reward: rubric, principle or recipe",
        schema("template_sha256 str, kind str, name str, version str, text text"),
        key=("template_sha256",),
        sort=("kind", "name", "template_sha256"),
        by_round=False,
        dictionary=words("kind name version"),
    ),
    Table(
        "policy_logprobs",
        "one row per rollout and policy that scored its tokens",
        schema("rollout_id str, round i32?, policy_revision str, role str, logprobs floats"),
        key=("rollout_id", "policy_revision"),
        sort=("policy_revision", "rollout_id"),
        row_group_size=16_384,
        dictionary=words("policy_revision role"),
        delta=words("rollout_id"),
    ),
    Table(
        "dead_letters",
        "one row per input row that a stage could not process",
        schema(
            """
        stage str, round i32?, row_id str, purpose str?, labeler str?, error_type str, message str,
        payload text?, attempt i16, failed_at time
        """
        ),
        key=("stage", "round", "row_id", "attempt"),
        sort=("stage", "row_id", "attempt"),
        volatile=words("failed_at"),
        dictionary=words("stage purpose labeler error_type"),
    ),
]

TABLES: dict[str, Table] = {table.name: table for table in _ALL}


def conform(name: str, rows: pa.Table) -> pa.Table:
    """Casts `rows` to the schema of table `name`, in its column order.

    Nullable columns may be missing and become NULL. Raises SchemaMismatch.
    """
    wanted = TABLES[name].schema
    unknown = sorted(set(rows.column_names) - set(wanted.names))
    missing = sorted(f.name for f in wanted if not f.nullable and f.name not in rows.column_names)
    if unknown or missing:
        raise SchemaMismatch(f"table {name}: unknown columns {unknown}, missing columns {missing}")
    columns: list[pa.ChunkedArray | pa.Array] = []
    for field in wanted:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        column = rows.column(field.name)
        if not field.nullable and column.null_count:
            raise SchemaMismatch(f"table {name}: column {field.name} has {column.null_count} NULLs")
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SchemaMismatch(f"table {name}: column {field.name}: {error}") from error
    return pa.Table.from_arrays(columns, schema=wanted)


def table_from_rows(name: str, rows: list[dict[str, object]]) -> pa.Table:
    """Rows of table `name` as a conforming Arrow table; absent columns become NULL."""
    wanted = TABLES[name].schema
    if not rows:
        return wanted.empty_table()
    loose = [f.with_nullable(True) for f in wanted if any(f.name in row for row in rows)]
    unknown = sorted({key for row in rows for key in row} - set(wanted.names))
    if unknown:
        raise SchemaMismatch(f"table {name}: unknown columns {unknown}")
    return conform(name, pa.Table.from_pylist(rows, schema=pa.schema(loose)))
