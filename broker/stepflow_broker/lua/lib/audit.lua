-- audit: the record of who has done what to runs by hand.

local MAX_AUDITED = 100000 -- entries that are kept, about

-- record an action; `who` '': nobody has done it by hand
local function audit(who, action, subject, reason, details)
  if who == '' then return end
  redis.call('XADD', AUDIT, 'MAXLEN', '~', MAX_AUDITED, '*', 'who', who, 'action', action, 'subject', subject,
    'reason', reason, 'details', details)
end
