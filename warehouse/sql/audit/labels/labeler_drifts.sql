-- one row per round and labeler that changed within the round: was one instrument used?
-- More than one revision, template, model revision, sampling or backend version among the final
-- labels of one criterion, mode and principle. An empty value counts as one of its own. A second try
-- at an unreadable verdict has more room by design: its sampling does not count.
with

final as (

    select
        round,
        labeler,
        criterion,
        mode,
        principle,
        count(*) as labels,
        count(distinct revision) as revisions,
        count(distinct coalesce(template_sha256, '')) as templates,
        count(distinct model_revision) as model_revisions,
        count(distinct coalesce(sampling_json, ''))
            filter (supersedes is null) as samplings,
        count(distinct backend_version) as backend_versions,
    from current_labels
    group by round, labeler, criterion, mode, principle
    having greatest(revisions, templates, model_revisions, samplings, backend_versions) > 1
    order by round, labeler, criterion, mode, principle

)

select * from final
