-- tag_run: give a run tags. A tag takes the place of one of the same name.
-- USES     state indexes
-- KEYS     1 run
-- ARGV     1 run  2 fence  3 subjects (packed subjects of the indexes of the tags)
-- MOVES    none
-- RETURNS  1 TAGGED, -1 NO_RUN, -2 STALE_FENCE
local run, was = ARGV[1], read_run(ARGV[1])
if not holds_run(was, ARGV[2]) then return refusal(was) end
local is_new, kept = {}, ''
for _, subject in ipairs(unpack_texts(ARGV[3])) do is_new[string.match(subject, '^[^=]*')] = true end
for _, subject in ipairs(unpack_texts(redis.call('HGET', KEYS[1], 'indexed') or '')) do
  if is_new[string.match(subject, '^[^=]*')] then
    redis.call('ZREM', INDEX .. subject, run)
  else
    kept = kept .. pack_text(subject)
  end
end
redis.call('HSET', KEYS[1], 'indexed', kept .. ARGV[3])
index_tags(run, ARGV[3], was.created_at)
return 1
