"""What the command line says in Chinese: each English sentence with its own; a test finds one that is missing."""

from __future__ import annotations

from typing import Final

CHINESE: Final[dict[str, str]] = {
    # groups and commands
    "aiotaskq: a task queue and scheduler inside your asyncio application; no broker needed.": (
        "aiotaskq：嵌在 asyncio 应用里的 任务队列和定时调度器，不需要消息中间件。"
    ),
    "See it work, on the files of a folder.": "用一个文件夹里的文件演示。",
    "See it work: one task per file of a folder, schedules, retries, a dead letter; every claim is checked.\n\n"
    "Reads the files (each is hashed and compressed in memory) and changes none. Hidden files and folders are left "
    "out, symbolic links are not followed. Stop it with Ctrl-C and run it again: it goes on where it was.": (
        "演示：每个文件一个任务，外加定时计划、重试和死信；每一项说法都会检查。\n\n"
        "只读取文件（在内存里求哈希并压缩），不做任何修改。跳过隐藏的文件和文件夹，不跟随符号链接。"
        "按 Ctrl-C 停下，再运行一次就接着做。"
    ),
    "Write a starter application.": "生成一个起步应用。",
    "Write a starter application into a folder; it runs as it is, and no file is overwritten.": (
        "在文件夹里生成一个可以直接运行的起步应用；不覆盖任何文件。"
    ),
    "Run workers and the scheduler of your application.": "运行应用的工作进程和调度器。",
    "Run workers and the scheduler of your application until SIGINT or SIGTERM; a second signal skips the drain.": (
        "运行应用的工作协程和调度器，直到收到 SIGINT 或 SIGTERM；第二个信号不再等待。"
    ),
    "Push one task.": "推送一个任务。",
    "Push one task by the name of its type; prints its id.": "按类型名推送一个任务，并打印它的编号。",
    "Count tasks by queue and status.": "按队列和状态统计任务。",
    "Count tasks by queue and status; with --watch each second, until Ctrl-C.": (
        "按队列和状态统计任务；加 --watch 每秒刷新，直到 Ctrl-C。"
    ),
    "Serve the operations API.": "提供运维接口。",
    "Serve the operations API of a store until Ctrl-C.": "提供运维接口，直到 Ctrl-C。",
    "For health probes: is all well?": "健康检查：一切正常吗？",
    "Say in one line whether the store answers and work goes on in it: 0 if so, 1 if not. For health probes.": (
        "用一行说明存储是否应答、工作是否在继续：正常退出码为 0，否则为 1。供健康探针使用。"
    ),
    "Tell what a bug report needs.": "列出报告问题所需的信息。",
    "Tell versions, store, latency, clock and settings (without passwords): what a bug report needs.": (
        "列出版本、存储、延迟、时钟和设置（不含密码）：报告问题时附上。"
    ),
    "Measure it beside its peers; needs a checkout.": "与同类软件比较测速；需要源码目录。",
    "Run the benchmarks of the checkout that this was installed from; all options are theirs.": (
        "运行源码目录里的基准测试；所有选项都交给它。"
    ),
    "Print the script that completes words.": "打印命令补全脚本。",
    "Print the script that completes words of this command: source <(aiotaskq completion bash).": (
        "打印命令补全脚本： source <(aiotaskq completion bash)。"
    ),
    "Look at tasks, and operate on them.": "查看和处理任务。",
    "List tasks, the newest first.": "列出任务，最新的在前。",
    "Show one task and its error; params and result only with --params.": (
        "显示一个任务及其错误；参数和结果要加 --params 才显示。"
    ),
    "Put ended tasks back.": "把已结束的任务放回队列。",
    "Put failed, cancelled or expired tasks back, their retries unused: those named, or those that match.": (
        "把失败、取消或过期的任务放回队列，重试次数清零：指名的，或符合条件的。"
    ),
    "Cancel pending tasks; ask running ones to stop.": "取消等待中的任务；请运行中的任务停下。",
    "Delete ended tasks for good.": "彻底删除已结束的任务。",
    "Delete ended tasks for good: all of them, or those that the options name.": (
        "彻底删除已结束的任务：全部，或选项指定的那些。"
    ),
    "Look at schedules, and operate on them.": "查看和处理定时计划。",
    "List schedules in the order in which they were added.": "按添加顺序列出定时计划。",
    "Add a schedule by --cron, --interval or --at; prints its id.": (
        "用 --cron、--interval 或 --at 添加定时计划，并打印编号。"
    ),
    "Fire no more, until it is resumed.": "暂停，直到恢复为止。",
    "Fire again; what became due meanwhile follows its misfire policy.": "恢复；其间到期的按错过策略处理。",
    "Fire once more, now; the next due time stays.": "立刻多触发一次；下次到期时间不变。",
    "Delete schedules; the tasks that they fired stay.": "删除定时计划；它们产生的任务保留。",
    "Print the next times of a cron expression.": "打印 cron 表达式接下来的时间。",
    'Print the next times of a cron expression, quoted as "0 2 * * *".': (
        '打印 cron 表达式接下来的时间；写在引号里，如 "0 2 * * *"。'
    ),
    "Public values: list their keys, read, set and delete.": "公共键值：列出、读取、写入和删除。",
    "List the keys; what has expired is gone.": "列出键；过期的已经没有了。",
    "Print a value as JSON; 1 if there is none.": "以 JSON 打印一个值；没有则退出码为 1。",
    "Store a value.": "写入一个值。",
    "Delete a value; 1 if there is none.": "删除一个值；没有则退出码为 1。",
    "Queues: list, pause and resume them.": "队列：列出、暂停和恢复。",
    "List queues that have tasks or are paused.": "列出有任务的或已暂停的队列。",
    "Hand out no more tasks of a queue, in every process; pushes go on.": (
        "所有进程都不再领取这个队列的任务；仍可推送。"
    ),
    "Hand out tasks of a paused queue again.": "恢复领取已暂停队列的任务。",
    "Make, check, print or copy the tables.": "建立、检查、打印或复制数据表。",
    "Make the tables, or bring them to this version; harmless when repeated.": (
        "建立数据表，或升级到本版本；重复执行无害。"
    ),
    "Tell the tables' version, and which rows do not mean what their columns say; changes nothing.": (
        "报告数据表版本和含义不对的行；不做修改。"
    ),
    "Print the SQL that makes the tables in such a database, for who may not let a program do it.": (
        "打印建表的 SQL，供不允许程序建表的场合使用。"
    ),
    "Copy tasks and schedules to another store.": "把任务和定时计划复制到另一个存储。",
    "Copy tasks, schedules and paused queues from one store to another. Stopped at any point, it goes on when it "
    "is run again, and repeating it is harmless. FROM is not changed; stop its workers first. Public values are "
    "not copied.": (
        "把任务、定时计划和暂停的队列复制到另一个存储。中途停下后再运行就接着做，重复执行无害。"
        "FROM 不变；请先停掉它的工作进程。公共键值不复制。"
    ),
    "Exit codes: 0 ok, 1 error, 2 wrong usage, 5 the task has not ended in time; of run: 0 drained, 3 some tasks given "
    "back, 4 some abandoned; 130 stopped by Ctrl-C.": (
        "退出码：0 正常，1 出错，2 用法不对，5 任务未按时结束； run 的退出码：0 全部结束，3 有任务交还，"
        "4 有任务被放弃； 130 被 Ctrl-C 停止。"
    ),
    # options and arguments
    "Print the version.": "打印版本。",
    "Whose files are worked on; default the current folder.": "处理哪个文件夹；默认是当前文件夹。",
    "Default: a file in your cache folder, one for each FOLDER.": "默认：缓存文件夹里的文件，每个 FOLDER 一个。",
    "At most so many files.": "最多处理这么多文件。",
    "At most so many megabytes in all; larger files are left out.": "总共最多这么多兆字节；更大的文件跳过。",
    "Tasks that run at a time.": "同时运行的任务数。",
    "Seconds that each file takes longer: time to press Ctrl-C.": "每个文件多用的秒数：留出按 Ctrl-C 的时间。",
    "Forget a run that was stopped, instead of going on.": "不接着上次做，重新开始。",
    "Default the current one.": "默认是当前文件夹。",
    "Where your TaskQ is, as app:tq for 'tq' in app.py.": "TaskQ 在哪里，如 app:tq 指 app.py 里的 tq。",
    "Only these queues.": "只处理这些队列。",
    "Seconds that running tasks may take to end at a signal.": "收到信号后，运行中的任务可用来结束的秒数。",
    "Seconds more after they were cancelled.": "取消之后再等的秒数。",
    "So many worker processes; one that dies is started again.": "工作进程数；死掉的会重新启动。",
    "TRACE, DEBUG, INFO, WARNING or ERROR.": "TRACE、DEBUG、INFO、WARNING 或 ERROR。",
    "Serve the operations API, too.": "同时提供运维接口。",
    "The task type.": "任务类型。",
    "Its params as a JSON object; - reads them from standard input, out of the shell's history.": (
        "参数，JSON 对象；- 表示从标准输入读取，不留在命令历史里。"
    ),
    "Not before that.": "过这么久之后才执行。",
    "Smaller numbers go first; default 0.": "数字小的先执行；默认 0。",
    "Default the queue 'default'.": "默认是队列 default。",
    "One pending or running task with this key.": "同键的任务只能有一个在等待或运行。",
    "One task with this key while its row is kept.": "记录保留期间，同键的任务只有一个。",
    "Default 3.": "默认 3。",
    "That one run may take.": "一次运行的时限。",
    "Wait so long for its end, and print the result.": "最多等这么久，并打印结果。",
    "Look again each second.": "每秒刷新。",
    "With --watch: end after so many looks.": "与 --watch 合用：刷新这么多次后结束。",
    "How long a dead worker's task, or a due schedule, may lie there.": (
        "死掉的进程的任务或到期的计划最多可以搁置多久。"
    ),
    "How long a ready task may wait; default for ever.": "就绪的任务最多可以等多久；默认不限。",
    "Your shell.": "你的 shell。",
    "The store of tasks, as sqlite:///app.db.": "任务的存储，如 sqlite:///app.db。",
    "Where schedules live, if not with the tasks.": "定时计划的存储，若不与任务在一起。",
    "Print JSON, and nothing else, on standard output.": "标准输出只打印 JSON。",
    "One or more task ids.": "一个或多个任务编号。",
    "One or more schedule ids.": "一个或多个定时计划编号。",
    "pending, running, completed, failed, cancelled or expired; may be repeated.": (
        "pending、running、completed、failed、cancelled 或 expired；可重复。"
    ),
    "Only tasks of this type.": "只要这个类型的任务。",
    "Only tasks of this queue.": "只要这个队列的任务。",
    "Do not ask.": "不询问。",
    "Show params and results, which may hold secrets.": "显示参数和结果，其中可能有机密。",
    "The address that it listens on.": "运维接口监听的地址。",
    "Its port.": "运维接口的端口。",
    "The environment variable with the token that it asks for.": "存有运维接口口令的环境变量名。",
    "The file with that token, in its first line.": "存有口令的文件，在第一行。",
    "The operations API shows, and changes nothing.": "运维接口只看不改。",
    "At most so many.": "最多这么多。",
    "Go on behind this one.": "从这个之后接着列。",
    "Only those that ended longer ago.": "只要结束得更早的。",
    "IANA name, as Europe/Berlin; default the system's.": "IANA 时区名，如 Asia/Shanghai；默认用系统的。",
    "Only those that are not paused or finished.": "不要已暂停或已完成的。",
    "The type of the tasks that it makes.": "它产生的任务的类型。",
    "Their params as a JSON object; - reads them.": "任务参数，JSON 对象；- 表示从标准输入读取。",
    "Cron: 5 fields, or 6 with the seconds first.": "cron：5 段；或 6 段，第一段是秒。",
    "Once in so many seconds.": "每隔这么多秒一次。",
    "Once, as 2026-03-28T12:00; without an offset in that zone.": "一次，如 2026-03-28T12:00；不带偏移则用该时区。",
    "End after so many; 0 is no limit.": "触发这么多次后结束；0 不限。",
    "What becomes of overdue runs: fire_once, skip or fire_all.": "错过的如何处理：fire_once、skip 或 fire_all。",
    "While earlier tasks are unfinished: allow, skip or buffer_one.": "前面的还没做完时：allow、skip 或 buffer_one。",
    "The queue of its tasks.": "任务的队列。",
    "The priority of its tasks; smaller numbers go first.": "任务的优先级；数字小的先执行。",
    "The retries of its tasks.": "任务的重试次数。",
    "Its id; one that is there already is left as it is.": "编号；已有的保持不变。",
    "How many.": "打印几个。",
    "Start there, as 2026-03-28T12:00; without an offset in that zone.": (
        "从何时开始，如 2026-03-28T12:00；不带偏移则用该时区。"
    ),
    "The value as JSON; - reads it.": "值，JSON；- 表示从标准输入读取。",
    "Forget it then; default never.": "到时忘掉；默认永不。",
    "The URL of a store.": "来源存储的 URL。",
    "The URL of another one.": "目标存储的 URL。",
    "Copy running tasks, too, as pending: they will run again. Without it they are refused.": (
        "运行中的任务也复制，变为等待：它们会再次执行。不加则拒绝。"
    ),
    # questions, and wrong usage
    "nothing was done": "什么也没有做",
    "error: {error}": "错误：{error}",
    "'{command} --help' says more": "详见 {command} --help",
    "nobody can be asked here; say --yes": "这里无法询问；请加 --yes",
    "Tasks to put back: {count}. Go on?": "要放回队列的任务：{count}。继续？",
    "Tasks to delete for good: {count}. Go on?": "要彻底删除的任务：{count}。继续？",
    "Schedules to delete for good: {count}. Go on?": "要彻底删除的定时计划：{count}。继续？",
    "name tasks, or say which by options; not both": "要么指名任务，要么用选项说明，不能两者都用",
    "which? name tasks, or say --status failed": "哪些任务？请指名，或用 --status failed",
    "{target} names no object; write app:tq for 'tq' in app.py": "{target} 不是一个对象；app.py 里的 tq 写作 app:tq",
    "{level} is no level": "{level} 不是日志级别",
    "not with --processes: start 'aiotaskq web' beside them": "不能与 --processes 合用：请另外运行 aiotaskq web",
    "use {names} (got {shell})": "请用 {names}（收到 {shell}）",
    # errors
    "{field}: is not JSON ({where}); quote it for the shell, as '{{\"name\": 1}}'": (
        "{field}：不是 JSON（{where}）；在 shell 里要加引号，如 '{{\"name\": 1}}'"
    ),
    "line {line}, column {column}": "第 {line} 行第 {column} 列",
    "nested too deep": "嵌套太深",
    "{field}: {text} is no time; write it as 2026-03-28T12:00 or with +01:00": (
        "{field}：{text} 不是时间；写作 2026-03-28T12:00，或带上 +08:00"
    ),
    "params: a JSON object is needed, as '{{\"name\": 1}}' (got {kind})": (
        "params：需要 JSON 对象，如 '{{\"name\": 1}}'（收到 {kind}）"
    ),
    "schedule: exactly one of --cron, --interval and --at is needed": "--cron、--interval、--at 必须恰好给出一个",
    "--token-env, --token-file: give one of the two": "--token-env 与 --token-file 只能给一个",
    "--token-env: the environment variable {name} is not set, or empty": "--token-env：环境变量 {name} 没有设置或为空",
    "--token-file: {path} cannot be read: {why}": "--token-file：无法读取 {path}：{why}",
    "--token-file: the first line of {path} is empty": "--token-file：{path} 的第一行是空的",
    "it is no text": "不是文本",
    "{path} is there already; nothing was written": "{path} 已经存在；什么也没有写",
    "{path} cannot be written: {why}": "无法写入 {path}：{why}",
    "{path} cannot be read: {why}": "无法读取 {path}：{why}",
    "{path}: [tool.aiotaskq.run] is no table": "{path}：[tool.aiotaskq.run] 不是表",
    "{path}: [{table}] has an unknown key {name}": "{path}：[{table}] 里有不认识的键 {name}",
    "did you mean {name}?": "是不是 {name}？",
    "use {names}": "可用：{names}",
    "{path}: [{table}] {name}: a single value is needed": "{path}：[{table}] {name}：需要单个值",
    "memory:// lives in its own process only; copy between stores that outlive it": (
        "memory:// 只存在于自己的进程里；请在能持久的存储之间复制"
    ),
    "memory:// lives in its own process only; name a database, as in sqlite:///app.db": (
        "memory:// 只存在于自己的进程里；请给出数据库，如 sqlite:///app.db"
    ),
    "FROM and TO are the same store": "FROM 和 TO 是同一个存储",
    "{url} has no tables of this version yet; 'aiotaskq db upgrade' makes them": (
        "{url} 还没有本版本的数据表；用 aiotaskq db upgrade 建立"
    ),
    "there is no file {path}; 'aiotaskq db upgrade' would make it": "没有文件 {path}；aiotaskq db upgrade 会建立它",
    "{scheme} has no tables; name a database, as in sqlite:///app.db": (
        "{scheme} 没有数据表；请给出数据库，如 sqlite:///app.db"
    ),
    "--processes: {url} is the memory of one process, so each would have tasks of its own; "
    "use a store that processes share, as sqlite:///app.db, or --processes 1": (
        "--processes：{url} 是单个进程的内存，各进程会各有各的任务；"
        "请用能共享的存储，如 sqlite:///app.db，或 --processes 1"
    ),
    "there is no module {name} in {folder} or among the installed ones": "在 {folder} 和已安装的包里都没有模块 {name}",
    "{module} has no {name}": "{module} 里没有 {name}",
    "{target} is no TaskQ ({kind})": "{target} 不是 TaskQ（{kind}）",
    "there is {names}": "有 {names}",
    "no TaskQ is there at all": "那里根本没有 TaskQ",
    "importing {name} failed: {error}": "导入 {name} 失败：{error}",
    "the benchmarks are in the checkout of aiotaskq, not in its package; run this command from one": (
        "基准测试在 aiotaskq 的源码目录里，不在安装包里；请在源码目录中运行"
    ),
    # run, web
    "{target} on {url}: {concurrency} at a time from {where}; handlers: {types}": (
        "{target}，存储 {url}：同时 {concurrency} 个，来自{where}；处理函数：{types}"
    ),
    "every queue": "所有队列",
    "queues {names}": "队列 {names}",
    "none": "无",
    "Ctrl-C or SIGTERM stops it, a second time without waiting for what runs.": (
        "Ctrl-C 或 SIGTERM 停止；再来一次则不等待正在运行的。"
    ),
    "stopped; all that ran has ended": "已停止；运行中的都已结束",
    "stopped; some tasks were given back": "已停止；有些任务已交还",
    "stopped; some handlers did not end and were abandoned, their tasks come back when their lease is over": (
        "已停止；有些处理函数没有结束，已放弃，其任务在租约到期后回来"
    ),
    "ended by force: something in here did not stop in time": "强制结束：有东西没有按时停下",
    "ended by force: some processes did not stop in time and are killed": "强制结束：有些进程没有按时停下，已杀死",
    "{target} in {count} processes.": "{target}，{count} 个进程。",
    "every process failed at its start, {count} times in a row; what they said is above": (
        "所有进程启动都失败，连续 {count} 次；原因见上文"
    ),
    "operations API of {store} on {url}": "{store} 的运维接口：{url}",
    # init
    "wrote {path}; try": "已写入 {path}；试试",
    "and in another terminal": "再在另一个终端里",
    "A task queue with one task and one schedule.": "一个任务队列，有一个任务和一个定时计划。",
    "a file beside this program; or postgresql://…, mysql://…, redis://…": (
        "本程序旁边的一个文件；也可用 postgresql://…、mysql://…、redis://…"
    ),
    'or cron="0 2 * * *", timezone="Asia/Shanghai"': '或 cron="0 2 * * *", timezone="Asia/Shanghai"',
    "Workers inside the program itself; 'aiotaskq run app:tq' runs them in a process of their own.": (
        "工作协程就在本程序里；'aiotaskq run app:tq' 则在单独的进程里运行。"
    ),
    # demo
    "aiotaskq demo: {files} in {folder}, {size}": "aiotaskq 演示：{folder} 里的 {files}，{size}",
    "1 file": "1 个文件",
    "{count} files": "{count} 个文件",
    "files": "文件",
    "left out: {what}": "跳过：{what}",
    "hidden": "隐藏的",
    "symbolic link": "符号链接",
    "no regular file": "不是普通文件",
    "not readable": "不可读",
    "name is not UTF-8": "文件名不是 UTF-8",
    "beyond --max-mb": "超出 --max-mb",
    "more than --max-files": "超出 --max-files",
    "database: {url}": "数据库：{url}",
    "going on with the run that was stopped: {done} of {files} done, {left} to go": (
        "接着做上次停下的：{files}中的 {done} 个已完成，还剩 {left} 个"
    ),
    "pushed {count} tasks in one transaction, on disk after {seconds} s": (
        "在一个事务里推送了 {count} 个任务，{seconds} 秒后已写入磁盘"
    ),
    "{rate} files/s": "每秒 {rate} 个文件",
    "  scheduled report {number}: {done} of {files}{rate}, {size} read": (
        "  定时报告 {number}：{files}中的 {done} 个{rate}，已读 {size}"
    ),
    "waiting for the schedules": "等待定时计划",
    "stopping: what runs may end (Ctrl-C again does not wait for it)": "正在停止：让运行中的做完（再按 Ctrl-C 则不等）",
    "files done": "完成的文件",
    "{count} in {seconds} s": "{count} 个，用时 {seconds} 秒",
    "throughput": "吞吐量",
    "compressed": "压缩",
    "{size} to {less}": "{size} 到 {less}",
    "tasks completed": "完成的任务",
    "retried": "重试",
    "failed for good": "最终失败",
    "wait in the queue p50 / p99": "排队时间 p50 / p99",
    "schedule lateness p50 / max": "定时误差 p50 / 最大",
    "{count} due times": "{count} 次到期",
    "taken over from a killed process": "从被杀进程接管",
    "due while nothing ran, caught up": "停机期间到期并补上",
    "skipped, since it could not be read any more: {file}": "已跳过，因为读不到了：{file}",
    "Checks": "检查",
    "one task per file, each completed: {done:,} of {total:,}": "每个文件一个任务，{total:,} 个中完成 {done:,} 个",
    "the stored result is right: {right} of {looked} files hashed once more": (
        "保存的结果正确：重新计算哈希的 {looked} 个文件中 {right} 个相符"
    ),
    "a task that fails twice is retried twice, and succeeds": "失败两次的任务重试两次后成功",
    "a task that fails always is kept among the dead letters, with its error": "总是失败的任务连同错误留在死信里",
    "{kind}: one task for each due time, {tasks} for {runs}": "{kind}：每次到期一个任务，{runs} 次 {tasks} 个",
    "interval of 1 s": "间隔 1 秒",
    "cron with seconds": "带秒的 cron",
    "once: fired once, and is disabled now": "一次性计划：触发一次，现已停用",
    "a public value with a time to live is readable, and then is not": "有存活时间的公共键值可读，到期后读不到",
    "an old script pushed {total} tasks from a thread, without asyncio: {done} done": (
        "旧脚本不用 asyncio，从线程推送 {total} 个任务：完成 {done} 个"
    ),
    "closed and reopened, the database still holds {tasks:,} tasks, {results:,} results and {schedules} schedules": (
        "关闭再打开，数据库里仍有 {tasks:,} 个任务、{results:,} 个结果和 {schedules} 个定时计划"
    ),
    "{done:,} tasks were completed before this run went on; {again} of them ran again": (
        "这次接着做之前已完成 {done:,} 个任务；其中再次执行的：{again}"
    ),
    "Try next": "接下来可以试试",
    "1. Look at the dead letter in the database, which stays, and put it back:": (
        "1. 数据库会保留；看看里面的死信，并把它放回队列："
    ),
    "2. Stop it in the middle with Ctrl-C (or kill -9) and run it again: it goes on, and repeats nothing:": (
        "2. 中途按 Ctrl-C（或 kill -9）停下再运行：接着做，且不重复："
    ),
    "3. Your own: save this as app.py and start it, in as many terminals as you like; it says hello once a second:": (
        "3. 自己写：把下面存为 app.py 并启动，开几个终端都行；每秒说一次 hello："
    ),
    "stopped before anything was done": "还没做什么就停下了",
    "stopped: {done} of {files} are done, and stay done. This goes on with the rest:": (
        "已停止：{files}中的 {done} 个已完成并会保留。接着做其余的："
    ),
    "db: the demo closes its database and opens it again; name a file, as in sqlite:///x.db": (
        "db：演示会关闭数据库再打开；请给出文件，如 sqlite:///x.db"
    ),
    "db: tasks of somebody else are in there; the demo needs a database of its own": (
        "db：里面有别人的任务；演示需要自己的数据库"
    ),
    "db: it holds a run over {folder} that was stopped; go on with that folder, or forget it with --fresh": (
        "db：里面有对 {folder} 停下的演示；请接着用那个文件夹，或加 --fresh 重新开始"
    ),
    # tables and answers
    "TASK_ID": "任务编号",
    "SCHEDULE_ID": "计划编号",
    "NAME": "名称",
    "TYPE": "类型",
    "STATUS": "状态",
    "STATE": "状态",
    "QUEUE": "队列",
    "RETRIES": "重试",
    "AGE": "已有",
    "ERROR": "错误",
    "WHEN": "何时",
    "NEXT": "下次",
    "RUNS": "次数",
    "KIND": "种类",
    "TABLE": "表",
    "ID": "编号",
    "COLUMN": "列",
    "PROBLEM": "问题",
    "WHAT IS DONE": "如何处理",
    "PENDING": "等待",
    "RUNNING": "运行",
    "COMPLETED": "完成",
    "FAILED": "失败",
    "CANCELLED": "取消",
    "EXPIRED": "过期",
    "Mon": "周一",
    "Tue": "周二",
    "Wed": "周三",
    "Thu": "周四",
    "Fri": "周五",
    "Sat": "周六",
    "Sun": "周日",
    ", ": "，",
    "no tasks": "没有任务",
    "no schedules": "没有定时计划",
    "no queues": "没有队列",
    "there are more: --after {task_id}": "还有更多：--after {task_id}",
    "{count} hidden; --params shows them": "隐藏了 {count} 项；加 --params 显示",
    "it was there already: a task with this key": "已经有同键的任务",
    "pending again": "重新等待",
    "has ended already: {status}": "已经结束：{status}",
    "cancelled": "已取消",
    "asked to stop": "已请它停下",
    "tasks put back: {count}": "放回的任务：{count}",
    "tasks deleted: {count}": "删除的任务：{count}",
    "retry": "重试",
    "purge": "清除",
    "upgrade": "升级",
    "copy": "复制",
    "enabled": "启用",
    "paused": "暂停",
    "finished": "已完成",
    "open": "开放",
    "deleted": "已删除",
    "every {seconds} s": "每 {seconds} 秒",
    "once, {time}": "一次，{time}",
    "next {time}": "下次 {time}",
    "fired {task_id}": "已触发 {task_id}",
    "all queues": "所有队列",
    "{queue} (paused)": "{queue}（暂停）",
    "{count} ready to run": "{count} 个就绪",
    "the oldest for {seconds} s": "最早的已等 {seconds} 秒",
    "{rate} ended a second": "每秒结束 {rate} 个",
    "paused, and empty: {queues}": "暂停且为空：{queues}",
    "queue {queue} is paused": "队列 {queue} 已暂停",
    "queue {queue} is open": "队列 {queue} 已开放",
    "there is no value {key}": "没有键 {key}",
    "stored {key}": "已写入 {key}",
    "deleted {key}": "已删除 {key}",
    "{url} is at {version}": "{url} 的版本是 {version}",
    "{url} was at {before} and is at {version}": "{url} 原来的版本是 {before}，现在是 {version}",
    "no version": "无",
    "none yet": "还没有",
    "{url}: version {version}, this aiotaskq makes it {newest}": "{url}：版本 {version}，本程序的版本是 {newest}",
    "no odd rows": "没有可疑的行",
    "{count} values do not mean what their columns say; they are kept:": "{count} 个值含义不对；保留原样：",
    "copied: tasks {tasks}, schedules {schedules}; there already: tasks {tasks_there}, schedules {schedules_there}": (
        "已复制：任务 {tasks}，定时计划 {schedules}；原已存在：任务 {tasks_there}，定时计划 {schedules_there}"
    ),
    "of them running before, and pending there: {count}": "其中原在运行、在目标里为等待的：{count}",
    "could not be copied: {count}": "无法复制：{count}",
    "FROM is as it was; let nothing work on it any more, or its tasks are done twice": (
        "FROM 保持原样；不要再让任何进程处理它，否则任务会做两次"
    ),
    "ok: {ready} ready, {running} running": "正常：{ready} 个就绪，{running} 个运行",
    "{ready} ready, {running} running, work goes on": "{ready} 个就绪，{running} 个运行，工作在继续",
    "server": "服务器",
    "schema": "表版本",
    "newest schema": "最新表版本",
    "  latency: {median} ms, at most {worst} ms": "  延迟：{median} 毫秒，最多 {worst} 毫秒",
    "  clock: the host's": "  时钟：本机的",
    "clock: {ahead} ms ahead of this host's": "时钟：比本机快 {ahead} 毫秒",
}

TYPER: Final[dict[str, str]] = {
    "Usage: ": "用法：",
    "\nOptions:\n": "\n选项：\n",
    "\nArguments:\n": "\n参数：\n",
    "\nCommands:\n": "\n命令：\n",
    "Show this message and exit.": "显示本帮助。",
    "[env var: ": "[环境变量：",
    "; default: ": "；默认：",
    "[default: ": "[默认：",
    "[required]": "[必需]",
    "; required]": "；必需]",
}
"""Words that typer itself puts into a help page."""

# What typer says of a value, with what it quotes.
REFUSALS: Final[tuple[tuple[str, str], ...]] = (
    (r"Input should be greater than or equal to (\S+)", r"不能小于 \1"),
    (r"Input should be less than or equal to (\S+)", r"不能大于 \1"),
    (r"Input should be a valid integer\b.*", "应为整数"),
    (r"Input should be a valid number\b.*", "应为数字"),
    (r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", r"多余的参数 \1"),
)
