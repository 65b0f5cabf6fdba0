-- Have a message sent again later, or never.
-- ARGV  1 id, 2 in how many ms, -1 for never.
if tonumber(ARGV[2]) < 0 then
  redis.call('ZREM', ROOT .. ':hooks', ARGV[1])
else
  redis.call('ZADD', ROOT .. ':hooks', now_ms() + ARGV[2], ARGV[1])
end
return 1
