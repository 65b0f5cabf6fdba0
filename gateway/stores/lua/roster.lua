-- Share the roster: take this gateway's news, give back what the others have told since.
--
-- KEYS  1 beats     hash        worker -> its last beat; '' if it was struck off
--       2 leases    sorted set  worker -> when its lease ends, in ms of Redis's clock
--       3 versions  sorted set  worker -> the version that last told of it
--       4 version   the last version
-- ARGV  1 the version the caller has seen, 2 a lease in ms, then worker, beat, worker, beat …
--
-- Gives the version, then worker, beat, ms left of its lease, worker, …
-- If Redis was emptied the version begins anew, and a caller that is ahead of it is told everything. One that is not may
-- miss what came meanwhile, until that worker's next beat a second later.

local BEATS, LEASES, VERSIONS, VERSION = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

for _, worker in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now)) do
  redis.call('HDEL', BEATS, worker)
  redis.call('ZREM', LEASES, worker)
  redis.call('ZREM', VERSIONS, worker)
end

local mine = {}
for i = 3, #ARGV, 2 do
  mine[ARGV[i]] = true
  redis.call('HSET', BEATS, ARGV[i], ARGV[i + 1])
  redis.call('ZADD', LEASES, now + tonumber(ARGV[2]), ARGV[i])
  redis.call('ZADD', VERSIONS, redis.call('INCR', VERSION), ARGV[i])
end

local version, seen = tonumber(redis.call('GET', VERSION) or 0), tonumber(ARGV[1])
if seen > version then seen = 0 end
local news = {version}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', VERSIONS, '(' .. seen, '+inf')) do
  if not mine[worker] then
    table.insert(news, worker)
    table.insert(news, redis.call('HGET', BEATS, worker))
    table.insert(news, redis.call('ZSCORE', LEASES, worker) - now)
  end
end
return news
