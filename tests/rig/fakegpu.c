/* A stub of the CUDA or HIP run-time library: Dragon counts its devices and sets *_VISIBLE_DEVICES as for real ones.
 *
 *   cc -shared -fPIC       -o libcudart.so   fakegpu.c
 *   cc -shared -fPIC -DHIP -o libamdhip64.so fakegpu.c
 *
 * To be first in LD_LIBRARY_PATH. FAKE_NGPU (default -DDEVICES, else 4) is the number of devices; as in the real libraries
 * the visibility variables can only hide some of them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef HIP
#define API(name) hip##name
static const char *const variables[] = {"ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", NULL};
#else
#define API(name) cuda##name
static const char *const variables[] = {"CUDA_VISIBLE_DEVICES", NULL};
#endif

#ifndef DEVICES
#define DEVICES 4
#endif

enum { NO_DEVICE = 100, PROPERTIES_BYTES = 512, NAME_BYTES = 256, UUID_BYTES = 16 };

static int current;

static int count_devices(void) {
    const char *given = getenv("FAKE_NGPU");
    int devices = given ? atoi(given) : DEVICES;
    for (const char *const *variable = variables; *variable; variable++) {
        const char *list = getenv(*variable);
        int listed = list && *list ? 1 : 0;
        for (const char *at = list; at && *at; at++)
            listed += *at == ',';
        if (list && listed < devices)
            devices = listed;
    }
    return devices;
}

static int properties(char *to, int device) {
    memset(to, 0, PROPERTIES_BYTES);
    snprintf(to, NAME_BYTES, "Fake GPU %d", device);
    memset(to + NAME_BYTES, device + 1, UUID_BYTES); /* in both libraries the UUID comes after the name */
    return 0;
}

int API(GetDeviceCount)(int *devices) {
    *devices = count_devices();
    return *devices ? 0 : NO_DEVICE;
}
int API(GetDevice)(int *device) {
    *device = current;
    return 0;
}
int API(SetDevice)(int device) {
    current = device;
    return 0;
}
int API(GetDeviceProperties)(void *to, int device) { return properties(to, device); }
int API(GetDeviceProperties_v2)(void *to, int device) { return properties(to, device); }
int API(GetDevicePropertiesR0600)(void *to, int device) { return properties(to, device); }
int API(DeviceGetUuid)(void *to, int device) {
    memset(to, device + 1, UUID_BYTES);
    return 0;
}
const char *API(GetErrorString)(int error) {
    (void)error;
    return "fake";
}

/* what Dragon looks up but does not call to count devices */
#define SUCCEEDS(name) \
    int API(name)(void) { return 0; }
SUCCEEDS(Malloc)
SUCCEEDS(Free)
SUCCEEDS(Memcpy)
SUCCEEDS(Memset)
SUCCEEDS(SetDeviceFlags)
SUCCEEDS(DeviceSynchronize)
SUCCEEDS(IpcGetMemHandle)
SUCCEEDS(IpcOpenMemHandle)
SUCCEEDS(IpcCloseMemHandle)
SUCCEEDS(HostRegister)
SUCCEEDS(HostUnregister)
