-- Constants of all scripts that read or write rows.

local PARKED = '4611686018427387904'  -- run_at; not exact as a number
local OF_TASKS = {'note', 'step'}  -- the kinds of side rows whose owners are tasks
local MAX_WORDS = 4000  -- of one command: Lua's unpack() is limited to some thousands
