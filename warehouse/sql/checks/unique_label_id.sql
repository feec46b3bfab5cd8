-- one row per label id that stands more than once
select
    label_id,
    count(*) as n,
from labels
group by label_id
having n > 1
