-- Routes whose requests took more than a second on average in the last hour, the slowest p95 first.
SELECT
  "route",
  count(*) AS requests,
  round(avg("duration_ms"), 1) AS mean_ms,
  round(approx_percentile("duration_ms", 0.95), 1) AS p95_ms,
  max("duration_ms") AS max_ms
FROM tastesync_logs.customer_id
WHERE "day" >= date_format(current_timestamp - INTERVAL '1' HOUR, '%Y/%m/%d')
  AND from_iso8601_timestamp("timestamp") >= current_timestamp - INTERVAL '1' HOUR
  AND "duration_ms" IS NOT NULL
GROUP BY "route"
HAVING avg("duration_ms") > 1000
ORDER BY p95_ms DESC;
