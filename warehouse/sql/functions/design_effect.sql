-- how many times the variance of a rate is what as many completions drawn one by one would have
-- Variance of a ratio estimator over clusters (Cochran 1977, 2.42) against p (1 - p) / (n - 1):
-- exactly 1 with one sample per prompt; at least 1, and 1 where it cannot be estimated. `squares` is
-- the sum over prompts of (toxic - rate * completions)^2.
create macro design_effect(prompts, completions, rate, squares) as
    greatest(1.0, coalesce(
        prompts / nullif(prompts - 1, 0) * squares * (completions - 1)
            / nullif(completions * completions * rate * (1 - rate), 0),
        1.0
    ))
