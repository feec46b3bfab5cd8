-- one row per label whose score is not a number in [0, 1]
select
    label_id,
    labeler,
    score,
from labels
where not isfinite(score) or score not between 0 and 1
