"""One Arrow schema per table: the contract for everything that travels between rooms.

Each table states its grain (what one row is), its key, its sort order and its row-group size. Field
ids are stable and never reused (add columns at the end), so readers can follow a rename. Columns
marked volatile differ between two equal nights by nature (times, latencies, worker); "the same
tables" means all others, sorted. Not here: how rows reach a file (publish.py), views (catalog/).
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from warehouse.errors import SchemaMismatch

SCHEMA_VERSION = 3  # 2: labels.is_cached, .is_consistent; rounds.decided_*. 3: labels.purpose

_TERM = pa.struct(
    [("labeler", pa.string()), ("label_id", pa.string())]
    + [(name, pa.float64()) for name in ("value", "mean", "sd", "weight", "contribution")]
)
_LABEL_LOGPROB = pa.struct(
    [("label", pa.string()), ("token_id", pa.int32()), ("logprob", pa.float64())]
)
_TYPES: dict[str, pa.DataType] = {
    "str": pa.string(),
    "text": pa.large_string(),
    "bool": pa.bool_(),
    "i16": pa.int16(),
    "i32": pa.int32(),
    "i64": pa.int64(),
    "f32": pa.float32(),
    "f64": pa.float64(),
    "time": pa.timestamp("us", tz="UTC"),
    "ids": pa.list_(pa.int32()),
    "floats": pa.list_(pa.float32()),
    "names": pa.list_(pa.string()),
    "label_logprobs": pa.list_(_LABEL_LOGPROB),
    "terms": pa.list_(_TERM),
}

SCORED_STATUSES = ("ok", "ok_repaired")


@dataclass(frozen=True)
class Table:
    """One table of the warehouse.

    `dictionary` names the columns worth a dictionary encoding (few distinct values);
    `delta` the near-unique, sorted strings stored as DELTA_BYTE_ARRAY. The value of `folder` stands
    in the path of a file that has but one: who asks for another need not open it.
    """

    name: str
    grain: str
    schema: pa.Schema
    key: tuple[str, ...]
    sort: tuple[str, ...]
    row_group_size: int = 122_880
    by_round: bool = True
    volatile: tuple[str, ...] = ()
    dictionary: tuple[str, ...] = ()
    delta: tuple[str, ...] = ()
    folder: str | None = None


def _schema(columns: str) -> pa.Schema:
    """`"name type, name type?"` as a schema: field ids count from 1, a `?` makes it nullable."""
    fields = []
    for number, column in enumerate(columns.split(","), start=1):
        name, kind = column.split()
        about = {"PARQUET:field_id": str(number)}
        is_nullable = kind.endswith("?")
        fields.append(pa.field(name, _TYPES[kind.rstrip("?")], is_nullable, about))
    return pa.schema(fields)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


STATUSES = _words(
    "ok ok_repaired malformed refusal off_schema out_of_range non_finite empty truncated "
    "low_mass wrong_language too_long filtered timeout throttled error ambiguous"
)


_ALL = [
    Table(
        "prompts",
        "one row per prompt",
        _schema(
            """
        prompt_id str, source str, purpose str, first_turn_sha256 str, messages text, extra text?,
        ingested_at time
        """
        ),
        key=("prompt_id",),
        sort=("prompt_id",),
        by_round=False,
        volatile=_words("ingested_at"),
        dictionary=_words("source purpose"),
        delta=_words("prompt_id"),
    ),
    Table(
        "rollouts",
        "one row per sampled completion",
        _schema(
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
        volatile=_words("generated_at"),
        dictionary=_words(
            "purpose policy_revision tokenizer_sha256 logprobs_mode finish_reason sampling_json "
            "engine engine_version dtype"
        ),
        delta=_words("rollout_id prompt_id"),
    ),
    Table(
        "labels",
        "one row per rollout, labeler, revision and attempt",
        _schema(
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
        volatile=_words(
            "latency_ms queue_ms retries request_id worker labeled_at is_cached cost_usd"
        ),
        dictionary=_words(
            "labeler revision kind role family criterion principle mode pair_order model "
            "model_revision tokenizer_sha256 label_map_sha256 backend backend_version device "
            "dtype template template_sha256 sampling_json structured_mode status score_method "
            "score_scale stop_reason price_table_version provider_region service_tier "
            "code_version worker purpose"
        ),
        delta=_words("rollout_id prompt_id"),
        folder="purpose",
    ),
    Table(
        "rewards",
        "one row per rollout and reward recipe",
        _schema(
            """
        rollout_id str, recipe str, recipe_sha256 str, round i32?, prompt_id str, purpose str,
        is_eligible bool, excluded_reason str?, reward f32?, label_count i16, label_ids names,
        terms terms
        """
        ),
        key=("rollout_id", "recipe_sha256"),
        sort=("rollout_id", "recipe_sha256"),
        dictionary=_words("recipe recipe_sha256 purpose excluded_reason"),
        delta=_words("rollout_id prompt_id"),
    ),
    Table(
        "train_use",
        "one row per training run and rollout it considered",
        _schema(
            """
        training_run_id str, round i32, rollout_id str, source_round i32?, is_used bool,
        excluded_reason str?, reward f32?, importance_weight f32?, advantage_mean f32?, epochs i16
        """
        ),
        key=("training_run_id", "rollout_id"),
        sort=("training_run_id", "rollout_id"),
        dictionary=_words("training_run_id excluded_reason"),
        delta=_words("rollout_id"),
    ),
    Table(
        "training_metrics",
        "one row per training run, step and metric",
        _schema(
            """
        training_run_id str, round i32, metric str, step i32, epoch i16?, value f64?, logged_at time
        """
        ),
        key=("training_run_id", "metric", "step"),
        sort=("training_run_id", "metric", "step"),
        volatile=_words("logged_at"),
        dictionary=_words("training_run_id metric"),
    ),
    Table(
        "evaluations",
        "one row per round, labeler and metric on the hold-out prompts",
        _schema(
            """
        round i32, policy_revision str, labeler str?, metric str, value f64?, low f64?, high f64?,
        unit str, method str, prompts i32, completions i32, samples_per_prompt i32
        """
        ),
        key=("round", "labeler", "metric"),
        sort=("round", "labeler", "metric"),
        dictionary=_words("policy_revision labeler metric unit method"),
    ),
    Table(
        "rounds",
        "one row per round (night)",
        _schema(
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
        volatile=_words("code_version stage_seconds started_at finished_at decided_at"),
    ),
    Table(
        "preference_pairs",
        "one row per prompt, round and pair recipe: a chosen and a rejected rollout",
        _schema(
            """
        prompt_id str, round i32?, recipe str, chosen_id str, rejected_id str, chosen_reward f32?,
        rejected_reward f32?, margin f32, probability f32?
        """
        ),
        key=("recipe", "chosen_id", "rejected_id"),
        sort=("prompt_id", "chosen_id", "rejected_id"),
        dictionary=_words("recipe"),
        delta=_words("prompt_id chosen_id rejected_id"),
    ),
    Table(
        "gold",
        "one row per rollout, criterion and annotator: a human verdict",
        _schema(
            """
        rollout_id str, round i32?, criterion str, annotator str, score f64, sample str?,
        comment text?, judged_at time?
        """
        ),
        key=("rollout_id", "criterion", "annotator"),
        sort=("criterion", "rollout_id", "annotator"),
        dictionary=_words("criterion annotator sample"),
    ),
    Table(
        "sentinels",
        "one row per round, labeler, revision and sentinel text",
        _schema(
            """
        round i32, labeler str, revision str, sentinel_id str, kind str, criterion str, gold f64?,
        status str, score f64?, raw_output text?
        """
        ),
        key=("round", "labeler", "revision", "sentinel_id"),
        sort=("labeler", "sentinel_id"),
        dictionary=_words("labeler revision kind criterion status"),
    ),
    Table(
        "templates",
        "one row per text that shaped a label or a reward: rubric, principle or recipe",
        _schema("template_sha256 str, kind str, name str, version str, text text"),
        key=("template_sha256",),
        sort=("kind", "name", "template_sha256"),
        by_round=False,
        dictionary=_words("kind name version"),
    ),
    Table(
        "policy_logprobs",
        "one row per rollout and policy that scored its tokens",
        _schema("rollout_id str, round i32?, policy_revision str, role str, logprobs floats"),
        key=("rollout_id", "policy_revision"),
        sort=("policy_revision", "rollout_id"),
        row_group_size=16_384,
        dictionary=_words("policy_revision role"),
        delta=_words("rollout_id"),
    ),
    Table(
        "dead_letters",
        "one row per input row that a stage could not process",
        _schema(
            """
        stage str, round i32?, row_id str, purpose str?, labeler str?, error_type str, message str,
        payload text?, attempt i16, failed_at time
        """
        ),
        key=("stage", "round", "row_id", "attempt"),
        sort=("stage", "row_id", "attempt"),
        volatile=_words("failed_at"),
        dictionary=_words("stage purpose labeler error_type"),
    ),
]

TABLES: dict[str, Table] = {table.name: table for table in _ALL}


def conform(name: str, rows: pa.Table) -> pa.Table:
    """Casts `rows` to the schema of table `name`, in its column order.

    Nullable columns may be missing and become NULL. Raises SchemaMismatch.
    """
    schema = TABLES[name].schema
    unknown = sorted(set(rows.column_names) - set(schema.names))
    missing = sorted(f.name for f in schema if not f.nullable and f.name not in rows.column_names)
    if unknown or missing:
        raise SchemaMismatch(f"table {name}: unknown columns {unknown}, missing columns {missing}")
    columns: list[pa.ChunkedArray | pa.Array] = []
    for field in schema:
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
    return pa.Table.from_arrays(columns, schema=schema)


def table_from_rows(name: str, rows: list[dict[str, object]]) -> pa.Table:
    """Rows of table `name` as a conforming Arrow table; absent columns become NULL."""
    schema = TABLES[name].schema
    if not rows:
        return schema.empty_table()
    loose = [f.with_nullable(True) for f in schema if any(f.name in row for row in rows)]
    unknown = sorted({key for row in rows for key in row} - set(schema.names))
    if unknown:
        raise SchemaMismatch(f"table {name}: unknown columns {unknown}")
    return conform(name, pa.Table.from_pylist(rows, schema=pa.schema(loose)))
