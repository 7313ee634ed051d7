-- A key's record, the day of its last use, its tenant's own quotas. KEYS: api_keys, last_used, quotas.
-- ARGV: id, a record to work on where there is none: an unknown id must not take less time than a known one.
-- Returns {milliseconds since 1970, record, day or '', quotas or ''}.
local record = redis.call('HGET', KEYS[1], ARGV[1]) or ARGV[2]
local tenant = cjson.decode(record).tenant
local time = redis.call('TIME')
return {
  time[1] * 1000 + math.floor(time[2] / 1000),
  record,
  redis.call('HGET', KEYS[2], ARGV[1]) or '',
  redis.call('HGET', KEYS[3], tenant) or '',
}
