-- one row per label key without exactly one final label
select
    label_key,
    count(*) as attempts,
    count(*) filter (is_final) as finals,
from labels
group by label_key
having finals <> 1
