-- Share the roster: take this gateway's news, give back what the others have told since.
--
-- KEYS  1 beats     hash        worker -> its last beat; '' if it was struck off
--       2 leases    sorted set  worker -> when its lease ends, in ms of Redis's clock
--       3 versions  sorted set  worker -> the version that last told of it
--       4 version   the last version
--       5 work      hash        gateway|worker -> "requests tokens credit": what the gateway has outstanding on the
--                               worker, and how many requests it would give it at most
--       6 told      sorted set  gateway|worker -> when that was told, in ms of Redis's clock; it holds for a lease
--       7 orders    hash        worker -> "number order", see core/orders.py: the higher number holds, and of two
--                               with one number the stronger order
--       8 order_leases  sorted set  worker -> when its order is forgotten, in ms of Redis's clock
--       9 sent      stream      gateway -> which prompts it sent to whom that others would look for elsewhere; some
--                               20 MB at the very most
-- ARGV  1 the version the caller has seen, 2 a lease in ms, 3 the calling gateway, a name without |,
--       4 the ms up to which it has heard of work, 5 the id up to which it has read the stream, 6 what it has to say
--       there, '' for nothing, 7 how many words of beats follow, 8 how many orders,
--       then worker, order, ms left of it, worker, …, then worker, beat, worker, beat …, then worker, work, worker, …
--
-- Gives the version, the ms of now, a list of gateway, worker, work …, a list of all orders: worker, order, ms left …,
-- a list of the id up to which the stream is read now and what others said there, then worker, beat, ms left of its
-- lease, worker, …
-- If Redis was emptied the version begins anew, and a caller that is ahead of it is told everything. One that is not may
-- miss what came meanwhile, until that worker's next beat a second later; work is told again with each beat, too.

local BEATS, LEASES, VERSIONS, VERSION, WORK, TOLD = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local ORDERS, ORDER_LEASES, SENT = KEYS[7], KEYS[8], KEYS[9]
local LEASE_MS, OWNER = tonumber(ARGV[2]), ARGV[3]
local ORDERS_END = 8 + 3 * tonumber(ARGV[8])
local BEATS_END = ORDERS_END + tonumber(ARGV[7])
local SENT_MAX, SENT_READ_MAX, SENT_MS = 1000, 250, 900000 -- an engine's cache has moved on by then
local STRENGTH = {serve = 0, cordon = 1, sleep = 2, drain = 3}
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

for _, worker in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now)) do
  redis.call('HDEL', BEATS, worker)
  redis.call('ZREM', LEASES, worker)
  redis.call('ZREM', VERSIONS, worker)
end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', TOLD, '-inf', now - LEASE_MS)) do
  redis.call('HDEL', WORK, member)
  redis.call('ZREM', TOLD, member)
end

local function is_over(said, known)
  if not known then return true end
  local number, order = string.match(said, '^(%d+) (%a+)$')
  local known_number, known_order = string.match(known, '^(%d+) (%a+)$')
  if number ~= known_number then return tonumber(number) > tonumber(known_number) end
  return (STRENGTH[order] or 0) > (STRENGTH[known_order] or 0)
end

for _, worker in ipairs(redis.call('ZRANGEBYSCORE', ORDER_LEASES, '-inf', now)) do
  redis.call('HDEL', ORDERS, worker)
  redis.call('ZREM', ORDER_LEASES, worker)
end
for i = 9, ORDERS_END, 3 do
  local worker, said, ends = ARGV[i], ARGV[i + 1], now + tonumber(ARGV[i + 2])
  local known = redis.call('HGET', ORDERS, worker)
  if known == said then
    ends = math.max(ends, tonumber(redis.call('ZSCORE', ORDER_LEASES, worker)))
  end
  if known == said or is_over(said, known) then
    redis.call('HSET', ORDERS, worker, said)
    redis.call('ZADD', ORDER_LEASES, ends, worker)
  end
end

local mine = {}
for i = ORDERS_END + 1, BEATS_END, 2 do
  mine[ARGV[i]] = true
  redis.call('HSET', BEATS, ARGV[i], ARGV[i + 1])
  redis.call('ZADD', LEASES, now + LEASE_MS, ARGV[i])
  redis.call('ZADD', VERSIONS, redis.call('INCR', VERSION), ARGV[i])
end

local told, since = {}, tonumber(ARGV[4])
if since > now then since = 0 end -- another Redis took over, with another clock
for _, member in ipairs(redis.call('ZRANGEBYSCORE', TOLD, since, '+inf')) do
  local bar = string.find(member, '|', 1, true)
  local gateway = string.sub(member, 1, bar - 1)
  if gateway ~= OWNER then
    table.insert(told, gateway)
    table.insert(told, string.sub(member, bar + 1))
    table.insert(told, redis.call('HGET', WORK, member))
  end
end
for i = BEATS_END + 1, #ARGV, 2 do
  local member = OWNER .. '|' .. ARGV[i]
  redis.call('HSET', WORK, member, ARGV[i + 1])
  redis.call('ZADD', TOLD, now, member)
end

local heard = {ARGV[5]}
for _, said in ipairs(redis.call('XRANGE', SENT, '(' .. ARGV[5], '+', 'COUNT', SENT_READ_MAX)) do
  heard[1] = said[1]
  if said[2][1] ~= OWNER then table.insert(heard, said[2][2]) end
end
if ARGV[6] ~= '' then
  redis.call('XADD', SENT, 'MAXLEN', '~', SENT_MAX, '*', OWNER, ARGV[6])
  redis.call('PEXPIRE', SENT, SENT_MS)
end

local version, seen = tonumber(redis.call('GET', VERSION) or 0), tonumber(ARGV[1])
if seen > version then seen = 0 end
local orders = {}
for _, worker in ipairs(redis.call('ZRANGE', ORDER_LEASES, 0, -1)) do
  table.insert(orders, worker)
  table.insert(orders, redis.call('HGET', ORDERS, worker))
  table.insert(orders, redis.call('ZSCORE', ORDER_LEASES, worker) - now)
end
local news = {version, now, told, orders, heard}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', VERSIONS, '(' .. seen, '+inf')) do
  if not mine[worker] then
    table.insert(news, worker)
    table.insert(news, redis.call('HGET', BEATS, worker))
    table.insert(news, redis.call('ZSCORE', LEASES, worker) - now)
  end
end
return news
