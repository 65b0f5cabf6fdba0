-- Tell what the owner did and wants, hear how things stand. Idempotent by ticket id.
-- ARGV  how many ids leave, those; then the tickets that enter.
if known_epoch() ~= EPOCH then return stale() end
take_books()
local entering = VERB + 1 + tonumber(ARGV[VERB])
for i = VERB + 1, entering - 1 do
  if drop(ARGV[i]) then redis.call('HINCRBY', POOL, 'completed', 1) end
end
count_free()
grant()
for i = entering, #ARGV do enter(ARGV[i]) end
return finish()
