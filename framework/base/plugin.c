/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `lock` guards the list of entries. Entries are never removed, and nothing is
 * loaded or called under it.
 */
#include <svc/plugin.h>

#include <svc/buf.h>
#include <svc/log.h>
#include <svc/settings.h>

#include "text_private.h"

#include <dirent.h>
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_NAME 32
#define MODULE_PREFIX "libsvc_"
#define MODULE_SUFFIX ".so"
#define MODULE_ENTRY "svc_plugin"

struct entry {
	struct entry *next;
	const void *ops;
	bool module; /* loaded, not added by the program */
	char interface[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry *entries;

static const char *
ops_name(const void *ops)
{
	return ((const struct svc_plugin_head *)ops)->name;
}

static bool
name_ok(const char *name)
{
	if (name == NULL || name[0] < 'a' || name[0] > 'z')
		return false;
	size_t len = 0;
	for (; name[len] != '\0'; len++) {
		char c = name[len];
		if (len == MAX_NAME || !((c >= 'a' && c <= 'z') ||
					   (c >= '0' && c <= '9') || c == '_'))
			return false;
	}
	return true;
}

svc_err
svc_catalogue_check(const struct svc_interface *interface, const void *ops,
    struct svc_error *err)
{
	const char *room = interface->name;
	const struct svc_plugin_head *head = ops;
	if (head == NULL)
		return svc_error_set(
		    err, SVC_E_ABI, "%s plugin hands out no ops", room);
	if (!name_ok(head->name))
		return svc_error_set(err, SVC_E_ABI,
		    "%s plugin has no proper name: a letter, then letters, "
		    "digits and _, all lower case, at most %d",
		    room, MAX_NAME);
	if (head->abi >> 16 != interface->abi >> 16)
		return svc_error_set(err, SVC_E_ABI,
		    "plugin \"%s\" is for interface %u, but %s is interface %u",
		    head->name, head->abi >> 16, room, interface->abi >> 16);
	if (head->abi != interface->abi)
		return svc_error_set(err, SVC_E_ABI,
		    "%s plugin \"%s\" has abi %u, this library needs %u; "
		    "rebuild the plugin for svc %s",
		    room, head->name, head->abi & 0xffff,
		    interface->abi & 0xffff, svc_version());
	if (head->size < interface->min_size)
		return svc_error_set(err, SVC_E_ABI,
		    "%s plugin \"%s\" has %u bytes of ops, at least %u are "
		    "needed",
		    room, head->name, head->size, interface->min_size);
	const struct svc_required *need = interface->required;
	for (; need != NULL && need->name != NULL; need++) {
		void (*member)(void);
		if (need->offset + sizeof(member) <= head->size) {
			/* Any function pointer will do to see if it is set. */
			memcpy(&member, (const char *)ops + need->offset,
			    sizeof(member));
			if (member != NULL)
				continue;
		}
		return svc_error_set(err, SVC_E_ABI,
		    "%s plugin \"%s\" lacks the required member %s", room,
		    head->name, need->name);
	}
	return SVC_OK;
}

/* The entry of that name; called under the lock. */
static struct entry *
find_entry(const char *interface, const char *name, bool module)
{
	for (struct entry *at = entries; at != NULL; at = at->next)
		if (at->module == module &&
		    strcmp(at->interface, interface) == 0 &&
		    strcmp(ops_name(at->ops), name) == 0)
			return at;
	return NULL;
}

/* Enters ops that were checked; those of that name that are there already are
 * returned in `ret_ops`. */
static svc_err
enter(const struct svc_interface *interface, const void *ops, bool module,
    const void **ret_ops)
{
	size_t size = strlen(interface->name) + 1;
	struct entry *entry = svc_mem_alloc(sizeof(*entry) + size);
	if (entry == NULL)
		return SVC_E_NOMEM;
	entry->ops = ops;
	entry->module = module;
	memcpy(entry->interface, interface->name, size);
	pthread_mutex_lock(&lock);
	struct entry *there =
	    find_entry(interface->name, ops_name(ops), module);
	if (there == NULL) {
		entry->next = entries;
		entries = entry;
	}
	*ret_ops = there != NULL ? there->ops : ops;
	pthread_mutex_unlock(&lock);
	if (there != NULL)
		svc_mem_free(entry);
	return SVC_OK;
}

svc_err
svc_catalogue_add(const struct svc_interface *interface, const void *ops,
    struct svc_error *err)
{
	svc_err failed = svc_catalogue_check(interface, ops, err);
	if (failed != SVC_OK)
		return failed;
	const void *there;
	if (enter(interface, ops, false, &there) != SVC_OK)
		return svc_error_set(err, SVC_E_NOMEM, "out of memory");
	if (there != ops)
		return svc_error_set(err, SVC_E_EXISTS,
		    "there is another %s plugin \"%s\" already",
		    interface->name, ops_name(ops));
	return SVC_OK;
}

/* Where modules are looked for */

/* The folder "svc" beside the shared library, or beside the program where svc
 * is linked statically. */
static bool
default_folder(char out[PATH_MAX])
{
	static const char anchor;
	Dl_info info;
	char self[PATH_MAX];
	const char *file = "/proc/self/exe";
	/* Without a slash it is a program found by PATH. */
	if (dladdr(&anchor, &info) != 0 && strchr(info.dli_fname, '/') != NULL)
		file = info.dli_fname;
	if (realpath(file, self) == NULL)
		return false;
	static const char name[] = "/svc";
	size_t len = (size_t)(strrchr(self, '/') - self);
	if (len + sizeof(name) > PATH_MAX)
		return false;
	memcpy(out, self, len);
	memcpy(out + len, name, sizeof(name));
	return true;
}

/* All folders in order, each ended by a zero byte. */
static svc_err
list_folders(struct svc_buf *folders)
{
	/* A program with more rights than its caller loads nothing of his. */
	const char *path = secure_getenv("SVC_PLUGIN_PATH");
	while (path != NULL && *path != '\0') {
		size_t len = strcspn(path, ":");
		if (len > 0 && len < PATH_MAX) {
			svc_buf_append(folders, path, len);
			svc_buf_putc(folders, '\0');
		}
		path += len + (path[len] == ':');
	}
	char own[PATH_MAX];
	if (default_folder(own))
		svc_buf_append(folders, own, strlen(own) + 1);
	return folders->failed;
}

static const char *
next_folder(const struct svc_buf *folders, const char *folder)
{
	const char *first = (const char *)folders->data;
	const char *next = folder == NULL ? first : folder + strlen(folder) + 1;
	return next < first + folders->len ? next : NULL;
}

/* Names of what can be found */

struct names {
	char (*list)[MAX_NAME + 1];
	size_t count, cap;
	svc_err failed;
};

static void
names_add(struct names *names, const char *name, size_t len)
{
	if (names->count == names->cap) {
		size_t cap = names->cap > 0 ? names->cap * 2 : 16;
		void *list =
		    svc_mem_realloc(names->list, cap * sizeof(*names->list));
		if (list == NULL) {
			names->failed = SVC_E_NOMEM;
			return;
		}
		names->list = list;
		names->cap = cap;
	}
	char *to = names->list[names->count];
	memcpy(to, name, len);
	to[len] = '\0';
	names->count++;
}

static int
by_name(const void *a, const void *b)
{
	return strcmp(a, b);
}

static void
names_add_folder(struct names *names, const char *interface, const char *folder)
{
	DIR *dir = opendir(folder);
	if (dir == NULL)
		return;
	size_t prefix = strlen(MODULE_PREFIX), room = strlen(interface);
	const struct dirent *file;
	while ((file = readdir(dir)) != NULL) {
		const char *at = file->d_name;
		if (strncmp(at, MODULE_PREFIX, prefix) != 0)
			continue;
		at += prefix;
		if (strncmp(at, interface, room) != 0 || at[room] != '_')
			continue;
		at += room + 1;
		size_t len = strlen(at);
		size_t suffix = strlen(MODULE_SUFFIX);
		if (len <= suffix || len - suffix > MAX_NAME ||
		    strcmp(at + len - suffix, MODULE_SUFFIX) != 0)
			continue;
		char name[MAX_NAME + 1];
		memcpy(name, at, len - suffix);
		name[len - suffix] = '\0';
		if (name_ok(name))
			names_add(names, name, len - suffix);
	}
	closedir(dir);
}

/* Fills `names`, sorted and each once; to be freed in any case. */
static svc_err
names_gather(struct names *names, const struct svc_interface *interface,
    const struct svc_buf *folders)
{
	*names = (struct names){0};
	pthread_mutex_lock(&lock);
	for (struct entry *at = entries; at != NULL; at = at->next)
		if (strcmp(at->interface, interface->name) == 0)
			names_add(names, ops_name(at->ops),
			    strlen(ops_name(at->ops)));
	pthread_mutex_unlock(&lock);
	const void *const *own = interface->embedded;
	for (; own != NULL && *own != NULL; own++)
		if (name_ok(ops_name(*own)))
			names_add(
			    names, ops_name(*own), strlen(ops_name(*own)));
	const char *folder = NULL;
	while ((folder = next_folder(folders, folder)) != NULL)
		names_add_folder(names, interface->name, folder);
	if (names->count == 0)
		return names->failed;
	qsort(names->list, names->count, sizeof(*names->list), by_name);
	size_t kept = 1;
	for (size_t i = 1; i < names->count; i++)
		if (strcmp(names->list[i], names->list[kept - 1]) != 0)
			memmove(names->list[kept++], names->list[i],
			    sizeof(*names->list));
	names->count = kept;
	return names->failed;
}

svc_err
svc_catalogue_list(const struct svc_interface *interface,
    void (*each)(const char *name, void *arg), void *arg)
{
	struct svc_buf folders;
	struct names names = {0};
	svc_buf_init(&folders, SIZE_MAX);
	svc_err err = list_folders(&folders);
	if (err == SVC_OK)
		err = names_gather(&names, interface, &folders);
	for (size_t i = 0; err == SVC_OK && i < names.count; i++)
		each(names.list[i], arg);
	svc_mem_free(names.list);
	svc_buf_fini(&folders);
	return err;
}

/* Finding */

/* Loads the module `file`, which has to hold the plugin `name`. */
static svc_err
load(const struct svc_interface *interface, const char *name, const char *file,
    const void **ret_ops, struct svc_error *err)
{
	void *module = dlopen(file, RTLD_NOW | RTLD_LOCAL);
	if (module == NULL) {
		const char *why = dlerror();
		return svc_error_set(err, SVC_E_ABI, "cannot load %s: %s", file,
		    why != NULL ? why : "no reason given");
	}
	svc_err failed;
	const void *(*plugin)(void);
	void *symbol = dlsym(module, MODULE_ENTRY);
	if (symbol == NULL) {
		failed = svc_error_set(err, SVC_E_ABI,
		    "%s is no plugin: it exports no function " MODULE_ENTRY,
		    file);
		goto out;
	}
	/* ISO C has no cast from an object to a function; POSIX asks for it. */
	memcpy(&plugin, &symbol, sizeof(plugin));
	const void *ops = plugin();
	struct svc_error why;
	failed = svc_catalogue_check(interface, ops, &why);
	if (failed != SVC_OK) {
		svc_error_set(err, failed, "%s (%s)", why.text, file);
		goto out;
	}
	if (strcmp(ops_name(ops), name) != 0) {
		failed = svc_error_set(err, SVC_E_ABI,
		    "%s holds the plugin \"%s\", its name says \"%s\"", file,
		    ops_name(ops), name);
		goto out;
	}
	if (enter(interface, ops, true, ret_ops) != SVC_OK) {
		failed = svc_error_set(err, SVC_E_NOMEM, "out of memory");
		goto out;
	}
	/* From here on the module stays: its ops are in everybody's hands. */
	return SVC_OK;
out:
	dlclose(module);
	return failed;
}

/* The text lists what there is and where it was looked for, the list first:
 * it is what helps, should the rest be cut. */
static svc_err
not_found(const struct svc_interface *interface, const char *name,
    const struct svc_buf *folders, struct svc_error *err)
{
	svc_err code = name_ok(name) ? SVC_E_NOT_FOUND : SVC_E_INVAL;
	struct names names;
	struct svc_buf text;
	char quoted[64] = "NULL";
	if (name != NULL)
		svc_log_quote(name, strlen(name), quoted, sizeof(quoted));
	svc_buf_init(&text, 64 * 1024);
	names_gather(&names, interface, folders);
	const char *near = NULL;
	size_t best = 0;
	for (size_t i = 0; name != NULL && i < names.count; i++)
		if (svc_text_nearer(name, names.list[i], &best))
			near = names.list[i];
	if (near != NULL)
		svc_buf_printf(&text, ", did you mean \"%s\"? Allowed: ", near);
	else
		svc_buf_puts(
		    &text, names.count > 0 ? "; allowed: " : "; there is none");
	for (size_t i = 0; i < names.count; i++)
		svc_buf_printf(&text, "%s%s", i > 0 ? ", " : "", names.list[i]);
	const char *folder = NULL;
	const char *before = "; looked in ";
	while ((folder = next_folder(folders, folder)) != NULL) {
		svc_buf_printf(&text, "%s%s", before, folder);
		before = ", ";
	}
	svc_error_set(err, code, "no %s %s%s", interface->name, quoted,
	    text.data != NULL ? (const char *)text.data : "");
	svc_buf_fini(&text);
	svc_mem_free(names.list);
	return code;
}

static svc_err
find_module(const struct svc_interface *interface, const char *name,
    const void **ret_ops, struct svc_error *err)
{
	svc_err failed;
	struct svc_buf folders, file;
	svc_buf_init(&folders, SIZE_MAX);
	svc_buf_init(&file, SIZE_MAX);
	const char *folder = NULL;
	if (list_folders(&folders) != SVC_OK)
		goto out_of_memory;
	while (
	    name_ok(name) && (folder = next_folder(&folders, folder)) != NULL) {
		svc_buf_clear(&file);
		svc_buf_printf(&file, "%s/" MODULE_PREFIX "%s_%s" MODULE_SUFFIX,
		    folder, interface->name, name);
		if (file.failed != SVC_OK)
			goto out_of_memory;
		const char *path = (const char *)file.data;
		if (access(path, F_OK) == 0) {
			failed = load(interface, name, path, ret_ops, err);
			goto out;
		}
	}
	failed = not_found(interface, name, &folders, err);
	goto out;
out_of_memory:
	failed = svc_error_set(err, SVC_E_NOMEM, "out of memory");
out:
	svc_buf_fini(&file);
	svc_buf_fini(&folders);
	return failed;
}

svc_err
svc_catalogue_find(const struct svc_interface *interface, const char *name,
    const void **ret_ops, struct svc_error *err)
{
	if (!name_ok(name)) /* only to be told what there is */
		return find_module(interface, name, ret_ops, err);
	pthread_mutex_lock(&lock);
	const struct entry *added = find_entry(interface->name, name, false);
	const struct entry *loaded = find_entry(interface->name, name, true);
	pthread_mutex_unlock(&lock);
	if (added != NULL) {
		*ret_ops = added->ops;
		return SVC_OK;
	}
	const void *const *own = interface->embedded;
	for (; own != NULL && *own != NULL; own++) {
		if (ops_name(*own) == NULL || strcmp(ops_name(*own), name) != 0)
			continue;
		svc_err failed = svc_catalogue_check(interface, *own, err);
		if (failed == SVC_OK)
			*ret_ops = *own;
		return failed;
	}
	if (loaded != NULL) {
		*ret_ops = loaded->ops;
		return SVC_OK;
	}
	return find_module(interface, name, ret_ops, err);
}
