-- record_action: record an action that consists of many calls. Sent again, it finds the entry by the id of the action.
-- USES     audit
-- KEYS     1 audit
-- ARGV     1 id  2 who  3 action  4 subject  5 reason  6 details (JSON, with the id)
-- MOVES    none
-- RETURNS  1 RECORDED, 0 ALREADY
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 50)) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'details' and string.find(entry[2][i + 1], ARGV[1], 1, true) then return 0 end
  end
end
audit(ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
return 1
