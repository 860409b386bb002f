/* region_object: fastpredict._core.Region, a range of a file of somebody else's as a buffer.
 *
 * The mapping lives as long as the object, which every buffer and every array over it hold. It is made and unmapped
 * with the GIL released. In a child of fork() it stays what it was: shared, and guarded. */
#ifndef FPRED_PYEXT_REGION_OBJECT_H
#define FPRED_PYEXT_REGION_OBJECT_H

#include "module.h"

extern PyType_Spec pyext_region_spec;

#endif
