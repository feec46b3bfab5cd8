-- one row per round, purpose and labeler that gave no label there: which labeler never came?
-- Counted from the first round that the labeler worked on for that purpose. label_coverage knows
-- only the labelers at work in a round; a retired labeler stands here for good.
with

subjects as (

    select
        round,
        purpose,
        count(*) as rollouts,
    from rollouts
    where round is not null
    group by round, purpose

),

labelers as (

    select
        labeler,
        purpose,
        min(round) as first_round,
    from current_labels
    group by labeler, purpose

),

final as (

    select
        subjects.round,
        subjects.purpose,
        labelers.labeler,
        labelers.first_round,
        subjects.rollouts,
    from subjects
    inner join labelers
        on subjects.purpose = labelers.purpose
        and subjects.round > labelers.first_round
    anti join current_labels
        on subjects.round = current_labels.round
        and subjects.purpose = current_labels.purpose
        and labelers.labeler = current_labels.labeler
    order by subjects.round, subjects.purpose, labelers.labeler

)

select * from final
