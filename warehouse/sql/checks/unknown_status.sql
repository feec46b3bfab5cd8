-- one row per label whose status is none of the seventeen
select
    label_id,
    labeler,
    status,
from labels
where status not in (
    'ok', 'ok_repaired', 'malformed', 'refusal', 'off_schema', 'out_of_range', 'non_finite',
    'empty', 'truncated', 'low_mass', 'wrong_language', 'too_long', 'filtered', 'timeout',
    'throttled', 'error', 'ambiguous'
)
