-- Share what pools are asked for: put up this gateway's word, give back the others' and what was learnt of workers.
--
-- KEYS  1 words   hash        gateway -> its word, as JSON
--       2 heard   sorted set  gateway -> when it last spoke, in ms of Redis's clock
--       3 learnt  hash        pool -> what was learnt of its workers, as JSON; it stays
-- ARGV  1 the calling gateway, 2 a lease in ms, 3 its word, then pool, what was learnt, pool, …
--
-- Gives a list of the others' words, and a list of pool, what was learnt, pool, …

local WORDS, HEARD, LEARNT = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

redis.call('HSET', WORDS, ARGV[1], ARGV[3])
redis.call('ZADD', HEARD, now, ARGV[1])
for _, gateway in ipairs(redis.call('ZRANGEBYSCORE', HEARD, '-inf', now - tonumber(ARGV[2]))) do
  redis.call('HDEL', WORDS, gateway)
  redis.call('ZREM', HEARD, gateway)
end
for i = 4, #ARGV, 2 do redis.call('HSET', LEARNT, ARGV[i], ARGV[i + 1]) end

local others, words = {}, redis.call('HGETALL', WORDS)
for i = 1, #words, 2 do
  if words[i] ~= ARGV[1] then table.insert(others, words[i + 1]) end
end
return {others, redis.call('HGETALL', LEARNT)}
