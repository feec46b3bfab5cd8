-- one row per label that has a score but no ok status, or the reverse
select
    label_id,
    status,
    score,
from labels
where (score is not null) <> (status in ('ok', 'ok_repaired'))
