-- Give back places, in line or in flight, and grant what became free. Idempotent by ticket id.
-- ARGV  4… ticket ids.
if is_stale() then return stale() end
for i = 4, #ARGV do drop(ARGV[i]) end
grant()
return answer()
