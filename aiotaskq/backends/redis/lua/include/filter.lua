-- The filter of a task search, from the first argument; the status is compared by the caller.
local where = cmsgpack.unpack(ARGV[1])

local function matches(row)
  if where.type or where.scheduler_task_id then
    local names = names_of(row)
    if where.type and names.type ~= where.type then return false end
    if where.scheduler_task_id and names.schedule ~= where.scheduler_task_id then return false end
  end
  return (not where.queue or queue_of(row.lane) == where.queue)
    and (not where.before or (row.completed ~= '-' and tonumber(row.completed) < tonumber(where.before)))
end
