-- Lines of customer-id as Fluentd writes them: s3://tastesync-logs/customer-id/YYYY/MM/DD/*.gz, a JSON object per line.
-- Days are found by projection: no partition has to be added, and a query that names its days reads only those.
CREATE DATABASE IF NOT EXISTS tastesync_logs;

CREATE EXTERNAL TABLE IF NOT EXISTS tastesync_logs.customer_id (
  `timestamp` string,
  `level` string,
  `message` string,
  `service` string,
  `environment` string,
  `version` string,
  `logger` string,
  `request_id` string,
  `correlation_id` string,
  `trace_id` string,
  `span_id` string,
  `method` string,
  `path` string,
  `route` string,
  `status` int,
  `duration_ms` double,
  `first_byte_ms` double,
  `client_type` string,
  `event_id` string,
  `data` map<string, string>,
  `error` struct<type: string, message: string, stack_trace: string>
)
PARTITIONED BY (`day` string)
ROW FORMAT SERDE 'org.openx.data.jsonserde.JsonSerDe'
WITH SERDEPROPERTIES ('ignore.malformed.json' = 'true')
LOCATION 's3://tastesync-logs/customer-id/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.day.type' = 'date',
  'projection.day.format' = 'yyyy/MM/dd',
  'projection.day.range' = '2025/01/01,NOW',
  'storage.location.template' = 's3://tastesync-logs/customer-id/${day}/'
);
