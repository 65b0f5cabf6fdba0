-- Put a job in its tenant's line, unless it is known already or the lines are full.
-- ARGV  1 id, 2 class, 3 tenant, 4 arrived_ms, 5 how many may wait, 6 webhook or nothing.
local id, class, tenant = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local job = load(id)
if not job then
  local waiting = waiting_in_all()
  if waiting >= tonumber(ARGV[5]) then return { 'full', waiting, pace_ms(now_ms()) or -1 } end
  local stream, line = stream_of(class, tenant), waiting_of(class, tenant)
  if redis.call('EXISTS', stream) == 0 then
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
    redis.call('SADD', tenants_of(class), tenant)
  end
  local entry = redis.call('XADD', stream, '*', 'id', id)
  if redis.call('ZCARD', line) == 0 then redis.call('RPUSH', turns_of(class), tenant) end
  redis.call('ZADD', line, redis.call('HINCRBY', ROOT .. ':counts', 'entered', 1), id)
  redis.call('HINCRBY', ROOT .. ':counts', 'unfinished', 1)
  redis.call('HSET', job_key(id), 'state', 'waiting', 'class', class, 'tenant', tenant, 'entry', entry,
    'arrived_ms', ARGV[4], 'attempts', 0, 'webhook', ARGV[6])
  job = load(id)
end
return { 'ok', unpack(view(job)) }
