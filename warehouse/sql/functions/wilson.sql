-- low and high end of the interval of a rate over n drawings, at 95 % (Wilson 1927)
create macro wilson(rate, n, z := 1.959963984540054) as struct_pack(
    low := greatest(0.0, (rate + z * z / (2 * n)) / (1 + z * z / n)
        - z / (1 + z * z / n) * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))),
    high := least(1.0, (rate + z * z / (2 * n)) / (1 + z * z / n)
        + z / (1 + z * z / n) * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)))
)
