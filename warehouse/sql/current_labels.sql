-- one row per final label, under the one revision of its labeler that a round goes by
-- Where a round (and purpose) has labels of several revisions, the one its rewards used counts,
-- else the one that labeled last. Failed labels stand here too, with their status and no score.
-- What revisers wrote measures no completion and stands elsewhere (revisions).
with

final_labels as (

    select
        labels.*,
        rollouts.purpose,
    from labels
    inner join rollouts on labels.rollout_id = rollouts.rollout_id
    where labels.is_final
        and labels.kind <> 'reviser'

),

revisions as (

    select
        round,
        purpose,
        labeler,
        revision,
        max(labeled_at) as last_labeled_at,
    from final_labels
    group by round, purpose, labeler, revision
    qualify count(*) over (partition by round, purpose, labeler) > 1

),

rewarded_labels as (

    select distinct unnest(label_ids) as label_id
    from rewards

),

rewarded_revisions as (

    select distinct
        labels.round,
        labels.labeler,
        labels.revision,
    from labels
    -- Most rounds have one revision: only the others are worth the join by label.
    semi join revisions
        on labels.round is not distinct from revisions.round
        and labels.labeler = revisions.labeler
    semi join rewarded_labels on labels.label_id = rewarded_labels.label_id

),

superseded as (

    select
        revisions.*,
    from revisions
    left join rewarded_revisions
        on revisions.round is not distinct from rewarded_revisions.round
        and revisions.labeler = rewarded_revisions.labeler
        and revisions.revision = rewarded_revisions.revision
    qualify row_number() over (
        partition by revisions.round, revisions.purpose, revisions.labeler
        order by
            rewarded_revisions.revision is not null desc,
            revisions.last_labeled_at desc,
            revisions.revision
    ) > 1

),

final as (

    select final_labels.*
    from final_labels
    anti join superseded
        on final_labels.round is not distinct from superseded.round
        and final_labels.purpose = superseded.purpose
        and final_labels.labeler = superseded.labeler
        and final_labels.revision = superseded.revision

)

select * from final
